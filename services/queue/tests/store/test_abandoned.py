"""Whoever jobs are leased to is gone before he is told: they are nobody's, and ready again at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from services.queue.tests.leases import Leases

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import Handover, Lot, NewBatch
from penguin_queue.domain.lanes import Lanes
from penguin_queue.domain.turns import Taken, Turn
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.hearing import Hearing
from penguin_queue.operations.leasing import Leasing
from penguin_queue.operations.news import news
from penguin_queue.operations.rating import Rating
from penguin_queue.operations.work import Work
from penguin_queue.store.due import EVER
from penguin_queue.store.fleet import FleetStore
from penguin_queue.store.jobs import Enqueued, JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import Asked, LeaseStore, Outcome
from penguin_queue.store.rates import Rates
from penguin_queue.store.redis import Guard


class Slow(LeaseStore):
    """Has leased when it is told so, and answers some time later."""

    def __init__(self, db: Database, kinds: Kinds) -> None:
        super().__init__(db, kinds)
        self.leased, self.answers = asyncio.Event(), asyncio.Event()

    async def lease_lots(
        self, asked: Asked, turns: Sequence[Turn], at: datetime = EVER
    ) -> tuple[list[Lot], list[Taken], Outcome]:
        lots = await super().lease_lots(asked, turns, at)
        self.leased.set()
        await self.answers.wait()
        return lots


class SlowJobs(JobStore):
    """Has stored when it is told so, and answers some time later."""

    def __init__(self, db: Database, kinds: Kinds) -> None:
        super().__init__(db, kinds)
        self.stored, self.answers = asyncio.Event(), asyncio.Event()

    async def enqueue_batch(self, step: Step, batch: NewBatch, handover: Handover | None = None) -> Enqueued:
        done = await super().enqueue_batch(step, batch, handover)
        self.stored.set()
        await self.answers.wait()
        return done


class Waiting:
    """A stream that waits for jobs."""

    def __init__(self) -> None:
        self.delivered: list[Lot] = []

    def offer(self, kind: str, count: int) -> Handover:
        return Handover(7, datetime.now(UTC) + timedelta(minutes=1), "waiting")

    def deliver(self, promised: int, lots: list[Lot]) -> bool:
        self.delivered += lots
        return True


async def test_what_was_handed_to_a_stream_by_an_enqueue_that_is_cancelled_is_given_back(own_db: Database) -> None:
    at, stream = datetime.now(UTC), Waiting()
    leases, jobs = LeaseStore(own_db, Kinds()), SlowJobs(own_db, Kinds())
    async with news(None) as told:
        lanes = Lanes()
        announcer = Announcer(told, lanes)
        by_turns = Leasing(leases, lanes, announcer, Rating(Rates(None, Guard("rates"))), own_db.now)
        work = Work(leases, by_turns, jobs, announcer, Hearing(FleetStore(own_db)), own_db.now)
        step, batch = Step(uuid4(), "req:1", b"d", at), NewBatch("k", [b"{}"] * 3, 0, 0, None, 0, ())
        with announcer.open_to_handover(stream):
            enqueueing = asyncio.create_task(work.enqueue_batch(step, batch))
            await jobs.stored.wait()
            # Committed, and leased with it; its caller goes before he is told.
            enqueueing.cancel()
            await asyncio.wait([enqueueing])
        assert (enqueueing.cancelled(), stream.delivered) == (True, [])
        found = await _ready(own_db, Asked((), 10, at + timedelta(minutes=1), "another"))
    assert sum(len(lot.ids) for lot in found) == 3
    assert not any(lot.lost_leases for lot in found)


async def test_what_is_leased_for_a_stream_that_has_ended_is_given_back(own_db: Database) -> None:
    at = datetime.now(UTC)
    leases, jobs = Slow(own_db, Kinds()), JobStore(own_db, Kinds())
    done = await jobs.enqueue_batch(Step(uuid4(), "req:1", b"d", at), NewBatch("k", [b"{}"] * 3, 0, 0, None, 0, ()))
    async with news(None) as told:
        lanes = Lanes()
        announcer = Announcer(told, lanes)
        by_turns = Leasing(leases, lanes, announcer, Rating(Rates(None, Guard("rates"))), own_db.now)
        await by_turns.look()
        work = Work(leases, by_turns, jobs, announcer, Hearing(FleetStore(own_db)), own_db.now)
        asked = Asked((), 10, at + timedelta(minutes=1), "gone")
        leasing = asyncio.create_task(work.lease_lots(asked))
        await leases.leased.wait()
        leasing.cancel()
        await asyncio.wait([leasing])
        assert leasing.cancelled()
        assert await Leases(own_db).lots(asked) == []
        leases.answers.set()
        found = await _ready(own_db, asked)
    assert sorted(job_id for lot in found for job_id in lot.ids) == list(done.ids)
    assert not any(lot.lost_leases for lot in found)


async def _ready(db: Database, asked: Asked) -> list[Lot]:
    """What can be leased, as soon as there is anything."""
    async with asyncio.timeout(10):
        while True:
            if found := await Leases(db).lots(asked):
                return found
            await asyncio.sleep(0.01)
