"""Tells those who wait that jobs are ready: leases waiting in this process, the other processes, and the sweep's alarm. It decides nothing; who is told too late, or not at all, finds the jobs in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from penguin_queue.domain.jobs import Handover, Lot, Ready
from penguin_queue.domain.lanes import Lanes
from penguin_queue.domain.turns import Lane, Place
from penguin_queue.operations.news import News

# For as many jobs all who wait are woken: how many there are is not known.
MANY = 1_000_000


class Taker(Protocol):
    """A worker's stream that waits, and can be handed jobs as they are stored."""

    def offer(self, kind: str, count: int) -> Handover | None:
        """A lease for that many of a kind; None where it cannot take them."""

    def deliver(self, promised: int, lots: list[Lot]) -> bool:
        """What became of the offer; False where nobody is there any more to take it."""


@dataclass(eq=False)
class Waiter:
    """One lease call that waits for jobs of these kinds (none: any)."""

    kinds: tuple[str, ...]
    max_jobs: int
    rung: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, timeout_s: float) -> None:
        """Until told, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.rung.wait()
        self.rung.clear()


class Announcer:
    """Who waits in this process, and whom else to tell."""

    def __init__(self, news: News, lanes: Lanes) -> None:
        self._news = news
        self._lanes = lanes
        self._waiters: list[Waiter] = []
        self._takers: list[Taker] = []
        self._alarm = asyncio.Event()
        self._alarm_at: datetime | None = None
        self._left = asyncio.Event()
        self._look = asyncio.Event()
        # The next one of each kind is the last in its list.
        self._alarms: dict[str, list[asyncio.TimerHandle]] = {}
        self._hurried = False
        self._told_at: datetime | None = None

    @contextlib.contextmanager
    def waiting(self, kinds: tuple[str, ...], max_jobs: int) -> Iterator[Waiter]:
        """Be told of new jobs while inside; enter before looking, so that nothing falls in between."""
        waiter = Waiter(kinds, max_jobs)
        self._waiters.append(waiter)
        try:
            yield waiter
        finally:
            self._waiters.remove(waiter)

    @contextlib.contextmanager
    def open_to_handover(self, taker: Taker) -> Iterator[None]:
        """Be offered jobs that are about to be stored while inside."""
        self._takers.append(taker)
        try:
            yield
        finally:
            self._takers.remove(taker)

    def taker(self, kind: str, count: int) -> tuple[Taker, Handover] | None:
        """A stream that waits for so many of the kind, longest waiting first, and the lease it gives them."""
        for taker in self._takers:
            handover = taker.offer(kind, count)
            if handover is not None:
                return taker, handover
        return None

    def tell(self, jobs: Sequence[Ready], at: datetime) -> None:
        """These can be leased now, or from their run_at on."""
        lanes: dict[Lane, Place] = {}
        kinds: Counter[str] = Counter()
        later: datetime | None = None
        for job in jobs:
            if job.run_at > at:
                later = job.run_at if later is None else min(later, job.run_at)
                continue
            kinds[job.kind] += 1
            lane, place = Lane(job.priority, job.kind, job.tenant_id), Place(job.rank, job.run_at, job.id)
            if lane not in lanes or place < lanes[lane]:
                lanes[lane] = place
        self.open(lanes, kinds)
        if later is not None:
            self._told_at = later if self._told_at is None else min(later, self._told_at)
            if self._alarm_at is None or later < self._alarm_at:
                self._alarm_at = later
                self._alarm.set()

    def hurry(self) -> None:
        """Jobs have left that others may wait for: these are to be looked at at once, and again if they are being looked at."""
        self._hurried = True
        self._left.set()

    async def until_left(self, longest_s: float, shortest_s: float) -> None:
        """Until jobs have left, or the time is over; the shortest where some have since this was waited for last."""
        self._left.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(shortest_s if self._hurried else longest_s):
                await self._left.wait()
        self._hurried = False

    def open(self, lanes: Mapping[Lane, Place], kinds: Counter[str]) -> None:
        """There are jobs in these lanes from these places on, so many of each kind."""
        if lanes:
            self._told(lanes)
            self._ring(kinds)
            self._news.tell(lanes)

    def heard(self, lanes: Mapping[Lane, Place]) -> None:
        """Another process says so."""
        self._told(lanes)
        self.found({lane.kind for lane in lanes})

    def _told(self, lanes: Mapping[Lane, Place]) -> None:
        for lane, place in lanes.items():
            self._lanes.told(lane, place)

    def found(self, kinds: Collection[str]) -> None:
        """There are jobs of these kinds that nobody here was told of."""
        if kinds:
            self._ring(Counter(dict.fromkeys(kinds, MANY)))

    def more_of(self, kinds: Collection[str]) -> None:
        """A lease may have left jobs of these kinds (none: of any) behind: the next who waits may have them."""
        kind = self._lanes.open_kind(kinds)
        if kind is not None:
            self._ring(Counter({kind: 1}))

    def freed(self, ids: Iterable[int]) -> None:
        """These jobs are in nobody's hands any more: as many that a limit held back may be had now."""
        if kinds := self._lanes.limits.ended(ids):
            self._ring(kinds)

    def later(self, kind: str, seconds: float) -> None:
        """Jobs of this kind may be had again after so long. Beside a sooner alarm there is none: who is told by that looks again."""
        loop = asyncio.get_running_loop()
        when, alarms = loop.time() + seconds, self._alarms.setdefault(kind, [])
        if not alarms or when < alarms[-1].when():
            alarms.append(loop.call_at(when, self._now_of, kind))

    def _now_of(self, kind: str) -> None:
        alarms = self._alarms[kind]
        alarms.pop()
        if not alarms:
            del self._alarms[kind]
        self.found({kind})

    def look(self) -> None:
        """Something else than an enqueue may have made jobs ready: look at once."""
        self._look.set()

    async def until_wanted(self, longest_s: float) -> None:
        """Until somebody wants a look, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._look.wait()
        self._look.clear()

    def _ring(self, kinds: Counter[str]) -> None:
        """Wake as many waiters as there is work for, longest waiting first."""
        for waiter in self._waiters:
            if not kinds:
                return
            kind = next((k for k in kinds if not waiter.kinds or k in waiter.kinds), None)
            if kind is None or waiter.rung.is_set():
                continue
            waiter.rung.set()
            kinds[kind] -= waiter.max_jobs
            if kinds[kind] <= 0:
                del kinds[kind]

    async def until_turn(self, planned_at: datetime | None, at: datetime, longest_s: float, shortest_s: float) -> None:
        """Wait for the next turn of the sweep: at `planned_at`, or earlier where an earlier job is told of."""
        # What was told of while the sweep looked may be later than its look, and earlier than its plan.
        planned_at = min((each for each in (planned_at, self._told_at) if each is not None), default=None)
        self._told_at = None
        self._alarm_at = planned_at
        self._alarm.clear()
        wait = longest_s if planned_at is None else min(longest_s, (planned_at - at).total_seconds())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait, shortest_s)):
                await self._alarm.wait()
