"""Watching the feed: looks again and again, soon after something was written here, seldom while nothing happens.

It never holds a connection while it waits, and a look that a frozen database does not answer ends the stream, so that its
client resumes elsewhere or later.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from penguin_chassis import calls, clock
from penguin_chassis.faults import DeadlineExceeded, database_down
from penguin_notifications.domain.feed import News, Place, Watcher
from penguin_notifications.domain.notifications import Notification
from penguin_notifications.store.feed import FeedStore

# Between looks (seconds): the first waits after news, and where waiting in vain ends up.
POLL_MIN_S = 0.1
POLL_MAX_S = 1.0
# Writes come in bursts; one look answers to all of a burst (seconds).
BURST_S = 0.02
KEEP_ALIVE_S = 15.0
# How long one look may take (seconds).
LOOK_TIMEOUT_S = 5.0
# A stream ends this long before its time is over, so that it is it that ends, and no deadline (seconds).
ENDING_S = 0.1


@dataclass(frozen=True)
class Sighting:
    """What a watcher is told: a notification, or (None) only where it stands."""

    notification: Notification | None
    place: Place


class Doorbell:
    """Tells the watchers in this process that something of their tenant was written here; others find it by looking."""

    def __init__(self) -> None:
        self._listening: dict[UUID, set[asyncio.Event]] = {}

    def ring(self, tenant_id: UUID) -> None:
        """Wake the tenant's watchers."""
        for event in self._listening.get(tenant_id, ()):
            event.set()

    @contextlib.contextmanager
    def listening(self, tenant_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set at every ring while the block lasts."""
        event = asyncio.Event()
        self._listening.setdefault(tenant_id, set()).add(event)
        try:
            yield event
        finally:
            self._listening[tenant_id].discard(event)
            if not self._listening[tenant_id]:
                del self._listening[tenant_id]


class Watching:
    """Streams over one database; they end when the call's time is over, or when `stopping` says so."""

    def __init__(self, feed: FeedStore, doorbell: Doorbell, stopping: Callable[[], bool]) -> None:
        self._feed = feed
        self._doorbell = doorbell
        self._stopping = stopping

    async def watch(self, watcher: Watcher, since: Place | None) -> AsyncGenerator[Sighting, None]:
        """Notifications after `since` (None: from now on) as they are committed, and where the watcher stands.

        Raises Unavailable while the database is away, InvalidArgument (INVALID_RESUME_TOKEN).
        """
        spoken, pause = -math.inf, POLL_MIN_S
        with self._doorbell.listening(watcher.tenant_id) as rung:
            place = since or await self._feed.end(watcher)
            while not self._over():
                rung.clear()
                news = await self._look(watcher, place)
                if news is None:
                    return
                place = news.place
                for notification, at in news.found:
                    yield Sighting(notification, at)
                if not news.found and time.monotonic() - spoken >= KEEP_ALIVE_S:
                    yield Sighting(None, place)
                    spoken = time.monotonic()
                if news.found:
                    spoken, pause = time.monotonic(), POLL_MIN_S
                if not news.more:
                    pause = await _pause(rung, pause)

    def _over(self) -> bool:
        return self._stopping() or calls.remaining() <= ENDING_S

    async def _look(self, watcher: Watcher, place: Place) -> News | None:
        """What is new; None when the call's time ran out over it."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                return await self._feed.news(watcher, place, clock.now())
        except DeadlineExceeded:
            return None
        except TimeoutError:
            raise database_down() from None


async def _pause(rung: asyncio.Event, pause: float) -> float:
    """Wait for a ring, or for `pause` seconds; returns how long to wait next."""
    wait = min(pause * random.uniform(0.8, 1.2), max(0.0, calls.remaining() - ENDING_S))
    try:
        async with asyncio.timeout(wait):
            await rung.wait()
    except TimeoutError:
        return min(pause * 2, POLL_MAX_S)
    await asyncio.sleep(random.uniform(0, BURST_S))
    return POLL_MIN_S
