"""Shares a tenant's count between all who ask for it. Counting a backlog reads it, so who asks while it is being counted waits
for the next count together with the others, and what took long is good for longer. Who cannot wait so long has the last one."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from penguin_chassis import calls
from penguin_chassis.clock import Now
from penguin_queue.domain.jobs import QueueCount
from penguin_queue.store.jobs import JobStore

T = TypeVar("T")

# A count is good for so many times as long as it took, unless it was so cheap that everybody may have their own (seconds).
SHARE = 10.0
CHEAP_S = 0.01
# And for this long at most (seconds): what is still to be done, and what is over, which only grows.
LONGEST_S = 30.0
HISTORY_LONGEST_S = 300.0
TENANTS_MAX = 1000
# No count may take longer than this (seconds); who waits for it may give up before, and finds it the next time.
COUNT_MAX_S = 300.0
# Who waits for a count is answered with the last one so long before he gives up (seconds), or a quarter of what he has left.
MARGIN_S = 0.25


@dataclass
class _Place(Generic[T]):
    """One tenant's last count: when it was begun, how long it took (seconds) and until when it is good, by the loop's clock."""

    counting: asyncio.Task[None] | None = None
    last: tuple[T, datetime] | None = None
    begun: float = 0.0
    took: float = 0.0
    good_until: float = 0.0


class Shared(Generic[T]):
    """Counts by tenant; those that were asked for last are kept."""

    def __init__(self, count: Callable[[UUID, datetime], Awaitable[T]], longest_s: float, now: Now) -> None:
        self._count = count
        self._now = now
        self._longest_s = longest_s
        self._places: OrderedDict[UUID, _Place[T]] = OrderedDict()

    async def latest(self, tenant_id: UUID) -> tuple[T, datetime]:
        """A count and of when it is: begun after this call, or good still, or the last one where the call's deadline comes before
        the next. Raises as the count does.

        It is nobody's own: were it to end with its caller's deadline, what takes longer would never be counted.
        """
        clock = asyncio.get_running_loop().time
        asked = clock()
        place = self._places.setdefault(tenant_id, _Place())
        self._places.move_to_end(tenant_id)
        if len(self._places) > TENANTS_MAX:
            self._places.popitem(last=False)
        while place.last is None or (place.begun < asked and clock() >= place.good_until):
            if place.counting is None:
                work = self._renew(tenant_id, place)
                place.counting = asyncio.create_task(work, context=contextvars.Context())
                # It may be that nobody is left to be told of an error.
                place.counting.add_done_callback(lambda task: task.cancelled() or task.exception())
            if place.last is None:
                await asyncio.shield(place.counting)
            elif not await _ends(place.counting, place.took):
                break
        return place.last

    async def _renew(self, tenant_id: UUID, place: _Place[T]) -> None:
        clock = asyncio.get_running_loop().time
        begun, at = clock(), self._now()
        caller = calls.Caller("count", tenant_id, frozenset())
        calls.enter(calls.Call("count", caller, time.monotonic() + COUNT_MAX_S))
        try:
            place.last, place.begun = (await self._count(tenant_id, at), at), begun
        finally:
            place.counting = None
        took = clock() - begun
        place.took = took
        place.good_until = clock() + (min(self._longest_s, SHARE * took) if took >= CHEAP_S else 0.0)


async def _ends(counting: asyncio.Task[None], took: float) -> bool:
    """Wait for a count that may take as long as the last one, unless the call has not so much time; whether it has ended. Raises as
    it does."""
    left = calls.remaining()
    left = max(left - MARGIN_S, 0.75 * left)
    if left < took:
        return False
    ended, _ = await asyncio.wait({counting}, timeout=left)
    for task in ended:
        task.result()
    return bool(ended)


@dataclass(frozen=True)
class Stats:
    """A tenant's jobs by state and priority, when the oldest due one became due, and of when both halves are."""

    counts: list[QueueCount]
    oldest_due_at: datetime | None
    at: datetime
    history_at: datetime


class Tallies:
    """What is still to be done, and apart from it what is over: days of history are no reason for an old backlog."""

    def __init__(self, jobs: JobStore, now: Now) -> None:
        self._waiting = Shared(jobs.stats, LONGEST_S, now)
        self._over = Shared(lambda tenant_id, _: jobs.history(tenant_id), HISTORY_LONGEST_S, now)

    async def stats(self, tenant_id: UUID) -> Stats:
        """The tenant's jobs."""
        (counts, oldest), at = await self._waiting.latest(tenant_id)
        over, history_at = await self._over.latest(tenant_id)
        return Stats([*counts, *over], oldest, at, history_at)
