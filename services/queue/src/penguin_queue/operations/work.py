"""The workers' and producers' side of the queue: what a store did is told to those who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from penguin_chassis import calls
from penguin_chassis.barrier import REQUEST, Step
from penguin_chassis.clock import Now
from penguin_chassis.faults import DeadlineExceeded, Fault, ResourceExhausted, Unavailable
from penguin_queue.domain.jobs import Failure, Handover, Job, LeaseRef, Lot, NewBatch, NewJob, Progress, Ready, Snooze
from penguin_queue.domain.turns import Lane, Place
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.hearing import Hearing
from penguin_queue.operations.leasing import Leasing
from penguin_queue.operations.returning import Returning, refs_in
from penguin_queue.store.jobs import Enqueued, JobStore
from penguin_queue.store.leases import Asked, LeaseStore, Swept

# How a waiting lease looks for what other processes made ready (seconds).
POLL_MIN_S = 0.05
POLL_MAX_S = 0.5
# What may have been leased by a transaction whose outcome nobody learnt is given back at once, and again after these pauses
# (seconds): it may be committed a moment later.
AGAIN_S = (1.0, 5.0)
# A waiting lease answers this long before its client gives up (seconds).
MARGIN_S = 0.25


@dataclass
class _Hands:
    """A hand-over under way: the lease that was given, and what has been stored under it."""

    handover: Handover | None
    lots: list[Lot] = field(default_factory=list)


class Work:
    """Stores, leases by turns and announcer put together."""

    def __init__(
        self,
        leases: LeaseStore,
        leasing: Leasing,
        jobs: JobStore,
        announcer: Announcer,
        hearing: Hearing,
        now: Now,
        *,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        # The clock by which everything here is leased, put off and ended.
        self.now = now
        self._leases = leases
        self._leasing = leasing
        self._hearing = hearing
        self._jobs = jobs
        self._announcer = announcer
        self._draining = draining
        self._returning = Returning(leases, announcer, now)
        self._abandoned: set[asyncio.Task[list[Lot]]] = set()

    @property
    def draining(self) -> bool:
        """Whether nothing more is leased here: the service is about to end."""
        return self._draining()

    async def enqueue(
        self, tenant_id: UUID, items: Sequence[tuple[Step, NewJob]], gate: Step | None
    ) -> list[int | Fault]:
        """Store jobs once each; answers in the order of `items`."""
        at = self.now()
        kinds = {job.kind for _, job in items}
        due = (
            gate is None
            and len(kinds) == 1
            and all(job.ties is None and (job.run_at is None or job.run_at <= at) for _, job in items)
        )
        with self._handing(items[0][1].kind, len(items), due=due) as hands:
            answers, stored, handed = await self._jobs.enqueue(
                tenant_id, items, gate=gate, at=at, handover=hands.handover
            )
            if handed and hands.handover is not None:
                hands.lots = [
                    _lot(tenant_id, job, hands.handover, [number], [job.payload], [job.traceparent], at)
                    for number, job in stored
                ]
        if gate is not None:
            # It may have undone an enqueue.
            self._announcer.hurry()
        if not hands.lots:
            self._announcer.tell(
                [Ready(tenant_id, n, j.kind, j.priority, j.run_at or at, j.rank) for n, j in stored], at
            )
        return answers

    async def enqueue_batch(self, step: Step, batch: NewBatch) -> tuple[range, int]:
        """Store all of a batch, or nothing; returns the jobs' ids, and that of their callback or 0."""
        due = step.operation == REQUEST and not batch.tied and (batch.run_at is None or batch.run_at <= step.at)
        with self._handing(batch.kind, len(batch.payloads), due=due) as hands:
            done = await self._jobs.enqueue_batch(step, batch, hands.handover)
            if done.handed and hands.handover is not None:
                hands.lots = [
                    _lot(
                        step.tenant_id,
                        done.batch,
                        hands.handover,
                        done.ids,
                        batch.payloads,
                        batch.traceparents,
                        step.at,
                    )
                ]
        if step.operation != REQUEST:
            self._announcer.hurry()
        if done.new and not done.handed:
            self._tell_of(step, done)
        return done.ids, done.callback

    def _tell_of(self, step: Step, done: Enqueued) -> None:
        """A batch is one lane, and its first job its head."""
        batch, run_at = done.batch, done.batch.run_at or step.at
        if run_at > step.at:
            job = Ready(step.tenant_id, done.ids.start, batch.kind, batch.priority, run_at, batch.rank)
            self._announcer.tell([job], step.at)
        else:
            lane, place = Lane(batch.priority, batch.kind, step.tenant_id), Place(batch.rank, run_at, done.ids.start)
            self._announcer.open({lane: place}, Counter({batch.kind: len(done.ids)}))

    @contextlib.contextmanager
    def _handing(self, kind: str, count: int, *, due: bool) -> Iterator[_Hands]:
        """Hand what is stored inside to a stream that waits for it, where one does."""
        taken = self._announcer.taker(kind, count) if due else None
        if taken is None:
            yield _Hands(None)
            return
        taker, handover = taken
        hands = _Hands(handover)
        try:
            yield hands
        except BaseException as error:
            # Who is cancelled, or out of time, does not learn whether it was committed: it may be, and leased with it.
            if not isinstance(error, Fault) or isinstance(error, Unavailable | DeadlineExceeded):
                self._returning.give_back(handover.leases, AGAIN_S)
            raise
        finally:
            if not taker.deliver(count, hands.lots):
                self.give_back(hands.lots)

    async def lease(
        self, kinds: tuple[str, ...], max_jobs: int, duration: timedelta, wait: timedelta, worker_id: str
    ) -> list[Job]:
        """Lease due jobs; where there are none, wait up to `wait` for the first."""
        self._hearing.leased(duration)
        clock = asyncio.get_running_loop().time
        ends = clock() + min(wait.total_seconds(), calls.remaining() - MARGIN_S)
        pause = POLL_MIN_S
        with self._announcer.waiting(kinds, max_jobs) as waiter:
            while True:
                found = await self._leasing.jobs(Asked(kinds, max_jobs, self.now() + duration, worker_id))
                left = ends - clock()
                if found or left <= 0 or self._draining():
                    return found
                await waiter.wait(min(left, pause * random.uniform(0.75, 1.25)))
                pause = min(pause * 2, POLL_MAX_S)

    async def lease_lots(self, asked: Asked) -> list[Lot]:
        """Lease due jobs as columns, without waiting. Whoever is cancelled meanwhile never learns what was leased to
        him: it is given back."""
        self._hearing.leased(asked.until - self.now())
        leasing = asyncio.create_task(self._leasing.lots(asked))
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            self._abandoned.add(leasing)
            leasing.add_done_callback(self._give_back_leased)
            raise

    def _give_back_leased(self, leasing: asyncio.Task[list[Lot]]) -> None:
        self._abandoned.discard(leasing)
        if not leasing.cancelled() and leasing.exception() is None:
            self.give_back(leasing.result())

    @staticmethod
    def passing(error: Exception) -> bool:
        """Whether it ends by itself: the database is away, or there is no connection just now."""
        return isinstance(error, Unavailable | ResourceExhausted | DeadlineExceeded)

    def giving_back(self, leases: Iterable[LeaseRef]) -> contextlib.AbstractContextManager[None]:
        """Give these back should what is done inside raise."""
        return self._returning.unless_done(lambda: leases)

    def give_back(self, lots: Sequence[Lot]) -> None:
        """Make jobs ready again that were leased to somebody who never got them, some time soon: should that fail, their
        leases run out."""
        self._returning.give_back(refs_in(lots))

    async def release(self, ids: Sequence[int], tokens: Sequence[int]) -> tuple[set[LeaseRef], set[LeaseRef]]:
        """Make jobs ready again untouched; returns those that are, and those that were cancelled."""
        at = self.now()
        back, risen, cancelled = await self._leases.release(ids, tokens, at)
        self._spoken(back, cancelled)
        self._announcer.tell(risen, at)
        return back, cancelled

    async def extend(
        self, leases: Sequence[LeaseRef], duration: timedelta, told: Mapping[int, Progress] | None = None
    ) -> tuple[datetime, set[LeaseRef], list[int]]:
        """Keep jobs in hand, and what is told of some by their ids; returns until when, whose lease still stands, and whose
        cancellation is wished."""
        # Who is full, or has long jobs, asks for nothing else.
        self._hearing.leased(duration)
        at = self.now()
        progress = {job_id: replace(each, at=at) for job_id, each in (told or {}).items()}
        kept, cancelling = await self._leases.extend(leases, at + duration, progress)
        self._hearing.heard(len(kept))
        return at + duration, kept, cancelling

    async def complete(
        self, ids: Sequence[int], tokens: Sequence[int], results: Mapping[int, str] | None = None
    ) -> list[int]:
        """End jobs that are done, some with results by their ids; returns those that are not, their lease being lost."""
        lost = await self._leases.complete(ids, tokens, self.now(), results)
        self._hearing.heard(len(ids) - len(lost))
        self._announcer.freed(set(ids).difference(lost) if lost else ids)
        return lost

    async def fail(self, failures: Sequence[Failure]) -> tuple[set[LeaseRef], set[LeaseRef], set[LeaseRef]]:
        """Put failed jobs back or bury them; returns the retried, the dead, and those that were cancelled."""
        at = self.now()
        retried, dead, cancelled = await self._leases.fail(failures, at)
        self._spoken(retried, dead, cancelled)
        self._announcer.tell(list(retried.values()), at)
        return set(retried), dead, cancelled

    async def snooze(self, snoozes: Sequence[Snooze]) -> tuple[set[LeaseRef], set[LeaseRef]]:
        """Put jobs off; returns those that were, and those that were cancelled."""
        at = self.now()
        off, cancelled = await self._leases.snooze(snoozes, at)
        self._spoken(off, cancelled)
        self._announcer.tell(list(off.values()), at)
        return set(off), cancelled

    def _spoken(self, *leases: Collection[LeaseRef]) -> None:
        """Jobs have left their workers' hands by a word of theirs."""
        self._hearing.heard(sum(map(len, leases)))
        self._announcer.freed(ref.job_id for each in leases for ref in each)

    async def sweep(self, at: datetime, after: datetime) -> Swept:
        """One round of what time alone has brought between two moments."""
        # Told before anything else is looked at.
        swept = await self._leases.sweep(at, after, await self._hearing.fleet(at))
        self._hearing.lost(swept.lost)
        self._announcer.freed(job.id for job in swept.ready)
        self._announcer.tell(swept.ready, at)
        return swept

    async def settle(self, at: datetime) -> bool:
        """One round of what follows from jobs that have left; whether there is more."""
        freed, more = await self._leases.left.see_to(at)
        self._announcer.tell(freed, at)
        return more

    @property
    def held(self) -> bool:
        """Whether ordering keys that somebody has in hand are to be waited for."""
        return self._leases.left.held

    async def settle_held(self, at: datetime) -> None:
        """Wait for one of them, and do what follows."""
        self._announcer.tell(await self._leases.left.see_to_held(at), at)


def _lot(
    tenant_id: UUID,
    like: NewJob | NewBatch,
    handover: Handover,
    ids: Sequence[int],
    payloads: Sequence[bytes],
    traceparents: Sequence[str],
    at: datetime,
) -> Lot:
    count = len(ids)
    return Lot(
        tenant_id, like.kind, like.priority, handover.token, handover.until, ids, payloads,
        created_at=[at] * count, max_attempts=[like.max_attempts] * count, traceparents=traceparents,
    )  # fmt: skip
