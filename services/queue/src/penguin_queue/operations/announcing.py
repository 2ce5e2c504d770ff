"""Tells those who wait that jobs are ready: leases waiting in this process, the buffer that all processes share, and the
sweep's alarm. It decides nothing; who is told too late, or not at all, finds the jobs in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from penguin_queue.domain.jobs import Handover, Lot, Ready
from penguin_queue.store.buffer import ReadyBuffer


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

    def __init__(self, buffer: ReadyBuffer) -> None:
        self._buffer = buffer
        self._waiters: list[Waiter] = []
        self._takers: list[Taker] = []
        self._alarm = asyncio.Event()
        self._alarm_at: datetime | None = None
        self._hurried = False

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
        now = [job for job in jobs if job.run_at <= at]
        later = min((job.run_at for job in jobs if job.run_at > at), default=None)
        if now:
            self._ring(Counter(job.kind for job in now))
            self._buffer.offer(now)
        if later is not None and (self._alarm_at is None or later < self._alarm_at):
            self._alarm_at = later
            self._alarm.set()

    def hurry(self) -> None:
        """Jobs have left that others may wait for: the sweep is to look at once, and again if it is looking now."""
        self._hurried = True
        self._alarm.set()

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
        self._alarm_at = planned_at
        self._alarm.clear()
        if self._hurried:
            longest_s = shortest_s
        wait = longest_s if planned_at is None else min(longest_s, (planned_at - at).total_seconds())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait, shortest_s)):
                await self._alarm.wait()
        self._hurried = False
