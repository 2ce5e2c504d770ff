"""Schedules beside the server: when one is due its jobs are enqueued and told of. Every server does so, each with the
schedules that no other has in hand at that moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from datetime import datetime

from penguin_chassis.barrier import Step
from penguin_chassis.defects import places
from penguin_chassis.pool import Database
from penguin_queue.domain.schedules import Schedule, Terms
from penguin_queue.operations.announcing import Announcer
from penguin_queue.store.schedules import Fired, ScheduleStore

log = logging.getLogger(__name__)

# Schedules in one transaction: each may have a hundred jobs of 64 KiB to make up for.
LIMIT = 20
# A schedule that was put by another server is seen this much later at most; the next look is never sooner (seconds).
LONGEST_S = 5.0
SHORTEST_S = 0.02
# Servers that wait for the same moment do not all come at once (seconds).
SPREAD_S = 0.05
AWAY_S = 1.0


class Schedules:
    """What tenants do to their schedules, and what these then do."""

    def __init__(self, store: ScheduleStore, announcer: Announcer) -> None:
        self._store = store
        self._announcer = announcer
        self._changed = asyncio.Event()

    async def put(self, step: Step, terms: Terms) -> Schedule:
        """Make a schedule, or make it so."""
        done = await self._store.put(step, terms)
        self._changed.set()
        return done

    async def rest(self, step: Step, name: str, *, paused: bool) -> Schedule:
        """Let a schedule rest, or end its rest."""
        done = await self._store.rest(step, name, paused=paused)
        self._changed.set()
        return done

    async def run(self, step: Step, name: str) -> int:
        """Enqueue a schedule's job beside its times; returns its id."""
        job_id, new = await self._store.run(step, name)
        self._announcer.tell(new, step.at)
        return job_id

    async def fire(self, at: datetime) -> Fired:
        """Enqueue what is due."""
        fired = await self._store.fire(at, LIMIT)
        self._announcer.tell(fired.ready, at)
        return fired

    async def until_due(self, next_at: datetime | None, at: datetime) -> None:
        """Wait for the next time, or until a schedule is changed here."""
        wait = LONGEST_S if next_at is None else (next_at - at).total_seconds() + random.uniform(0, SPREAD_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(max(wait, SHORTEST_S), LONGEST_S)):
                await self._changed.wait()
        self._changed.clear()


async def _keep_firing(db: Database, schedules: Schedules) -> None:
    while True:
        if not await db.wait_up(AWAY_S):
            continue
        try:
            fired = await schedules.fire(db.now())
        except Exception as error:  # noqa: BLE001 - the next round tries again
            log.warning("firing failed: %s", type(error).__name__, extra={"places": places(error)})
            await asyncio.sleep(LONGEST_S * random.uniform(0.2, 0.4))
            continue
        if not fired.more:
            await schedules.until_due(fired.next_at, db.now())


@contextlib.asynccontextmanager
async def firing(db: Database, schedules: Schedules) -> AsyncIterator[None]:
    """Fire schedules beside the block."""
    task = asyncio.create_task(_keep_firing(db, schedules), name="firing")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
