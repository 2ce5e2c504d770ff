"""The ends of tied jobs at the store: a round of the sweep that is lost, and what the hourly round removes and wakes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from services.queue.tests.leases import Leases

from penguin_chassis.barrier import Step
from penguin_chassis.faults import NotFound
from penguin_chassis.pool import Connection, Database
from penguin_queue.domain.jobs import Failure, LeaseRef, Members, NewBatch, NewJob, PurgeFilter, Snooze
from penguin_queue.domain.ties import AWAITED_CANCELLED, LEASED, WAITING, Ties, Unique
from penguin_queue.store import leases as leases_of
from penguin_queue.store import ties
from penguin_queue.store.control import ControlStore
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import Asked
from penguin_queue.store.settling import Settling
from penguin_queue.store.wakes import Turns, _see_to, _take, drain

AT = datetime(2026, 3, 1, tzinfo=UTC)


class LostRound(Exception):
    """The process ends before its transaction does."""


def step(tenant: UUID) -> Step:
    return Step(tenant, f"req:{uuid4()}", b"d", AT)


async def end_all(leases: Leases) -> list[int]:
    """Lease what is ready and complete it; its ids."""
    jobs = await leases.lease_ready(Asked((), 100, AT + timedelta(seconds=30), "w"))
    assert await leases.complete([job.id for job in jobs], [job.lease_token or 0 for job in jobs], AT) == []
    return [job.id for job in jobs]


async def freed(db: Database, kinds: Kinds) -> list[int]:
    """See to all that have left; ids of the jobs that came free."""
    ids, more = list[int](), True
    while more:
        ready, more = await drain(db, kinds, AT)
        ids += [job.id for job in ready]
    return ids


async def lost_round(db: Database) -> None:
    async with db.maintenance() as connection:
        wakes, _ = await _take(connection, Turns(), AT)
        assert len((await _see_to(connection, wakes, AT, {})).rows) == 1
        raise LostRound


async def test_a_round_that_is_lost_counts_nothing_and_the_callback_runs_once(own_db: Database) -> None:
    kinds, tenant = Kinds(), uuid4()
    jobs, leases = JobStore(own_db, kinds), Leases(own_db)
    over = NewJob("over", b"{}", 2, 0, None, 3, "")
    batch = NewBatch("k", [b"{}"] * 3, 2, 0, None, 3, (), members=Members(over, 0, more=False))
    done = await jobs.enqueue_batch(step(tenant), batch)
    assert sorted(await end_all(leases)) == list(done.ids)

    with pytest.raises(LostRound):
        await lost_round(own_db)
    assert (await jobs.get(tenant, done.callback)).state == "held"

    freed, _ = await drain(own_db, kinds, AT)
    assert [job.id for job in freed] == [done.callback]
    assert await drain(own_db, kinds, AT) == ([], False)
    assert await end_all(leases) == [done.callback]
    progress = (await jobs.get(tenant, done.callback)).batch
    assert progress is not None
    assert (progress.total, progress.completed) == (3, 3)


async def test_the_hourly_round_forgets_keys_and_wakes_what_waits_for_nobody(own_db: Database) -> None:
    kinds, tenant = Kinds(), uuid4()
    jobs, leases = JobStore(own_db, kinds), Leases(own_db)
    ties = (Ties(unique=Unique("over", WAITING, None, replace=False)), Ties(ordering_key="o"), Ties(ordering_key="o"))
    items = [(step(tenant), NewJob("k", b"{}", 2, 0, None, 3, "", ties=each)) for each in ties]
    answers, _, _ = await jobs.enqueue(tenant, items, gate=None, at=AT)
    await end_all(leases)
    kept = Ties(unique=Unique("kept", WAITING, None, replace=False))
    await jobs.enqueue(
        tenant, [(step(tenant), NewJob("k2", b"{}", 2, 0, AT + timedelta(1), 3, "", ties=kept))], gate=None, at=AT
    )
    async with own_db.maintenance() as connection:
        await connection.execute("DELETE FROM wakes")
    assert await drain(own_db, kinds, AT) == ([], False)

    await Settling().settle(own_db, AT)
    async with own_db.maintenance() as connection:
        assert [row["key"] for row in await connection.fetch("SELECT key FROM unique_keys")] == ["kept"]
    freed, _ = await drain(own_db, kinds, AT)
    assert [job.id for job in freed] == [answers[2]]


async def test_what_is_replaced_is_not_done_by_who_lost_it_before(own_db: Database) -> None:
    kinds, tenant = Kinds(), uuid4()
    jobs, leases = JobStore(own_db, kinds), Leases(own_db)
    unique = Ties(unique=Unique("once", WAITING, None, replace=True))
    first = NewJob("k", b'{"n":1}', 2, 0, None, 3, "", ties=unique)
    second = NewJob("k", b'{"n":2}', 2, 0, None, 3, "", ties=unique)
    await jobs.enqueue(tenant, [(step(tenant), first)], gate=None, at=AT)
    (old,) = await leases.lease_ready(Asked((), 1, AT + timedelta(seconds=30), "w"))
    await leases.sweep(AT + timedelta(seconds=30))
    await jobs.enqueue(tenant, [(step(tenant), second)], gate=None, at=AT + timedelta(seconds=31))
    assert await leases.complete([old.id], [old.lease_token or 0], AT + timedelta(seconds=32)) == [old.id]
    (new,) = await leases.lease_ready(Asked((), 1, AT + timedelta(seconds=90), "w"))
    assert (new.id, new.payload) == (old.id, b'{"n":2}')


async def test_a_key_holds_for_its_time_and_no_longer_wherever_its_job_stands(own_db: Database) -> None:
    kinds, tenant, minute = Kinds(), uuid4(), timedelta(minutes=1)
    jobs = JobStore(own_db, kinds)
    ties = Ties(unique=Unique("once", WAITING | LEASED, minute, replace=False))

    async def enqueue(at: datetime) -> int:
        items = [(step(tenant), NewJob("k", b"{}", 2, 0, None, 3, "", ties=ties))]
        ((answer,), _, _) = await jobs.enqueue(tenant, items, gate=None, at=at)
        assert isinstance(answer, int)
        return answer

    async def keys() -> list[str]:
        async with own_db.maintenance() as connection:
            return [row["key"] for row in await connection.fetch("SELECT key FROM unique_keys")]

    first = await enqueue(AT)
    assert await enqueue(AT + minute - timedelta(microseconds=1)) == -first
    second = await enqueue(AT + minute)
    assert second > 0
    # The time is that of the one that has the key now; the first runs beside it.
    assert await enqueue(AT + 2 * minute - timedelta(microseconds=1)) == -second
    assert [(await jobs.get(tenant, each)).state for each in (first, second)] == ["ready", "ready"]
    await Settling().settle(own_db, AT + 2 * minute - timedelta(microseconds=1))
    assert await keys() == ["once"]
    await Settling().settle(own_db, AT + 2 * minute)
    assert await keys() == []
    assert await enqueue(AT + 2 * minute) > 0


async def test_who_waits_for_a_dead_letter_that_is_purged_is_cancelled_with_all_that_wait_for_him(
    own_db: Database,
) -> None:
    kinds, tenant = Kinds(), uuid4()
    jobs, leases, control = JobStore(own_db, kinds), Leases(own_db), ControlStore(own_db, kinds)
    dead = PurgeFilter("dead", "", None)
    chain = (None, Ties(after_items=(0,)), Ties(after_items=(1,)), Ties(after_items=(2,), run_if_failed=True))
    items = [(step(tenant), NewJob("k", b"{}", 2, 0, None, 3, "", ties=each)) for each in chain]
    answers, _, _ = await jobs.enqueue(tenant, items, gate=None, at=AT)
    first, second, third, anyway = (answer for answer in answers if isinstance(answer, int))
    (leased,) = await leases.lease_ready(Asked((), 10, AT + timedelta(seconds=30), "w"))
    assert leased.id == first
    await leases.fail([Failure(LeaseRef(first, leased.lease_token or 0), "x", False, None, 0.5)], AT)
    # How it ended is still to be learnt by the sweep: it stays until then.
    held_back = await control.purge(step(tenant), dead, 10)
    assert (held_back.count, held_back.more) == (0, True)
    assert await freed(own_db, kinds) == []
    assert [(await jobs.get(tenant, each)).state for each in (first, second)] == ["dead", "held"]
    assert (await control.purge(step(tenant), dead, 10)).count == 1
    assert await freed(own_db, kinds) == [anyway]
    for each in (second, third):
        job = await jobs.get(tenant, each)
        assert (job.state, job.last_error) == ("cancelled", AWAITED_CANCELLED)
    with pytest.raises(NotFound):
        await jobs.get(tenant, first)
    assert await end_all(leases) == [anyway]
    async with own_db.maintenance() as connection:
        assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0


@dataclass
class Crossing:
    """A dead letter, and somebody who begins to wait for it while it is redriven."""

    db: Database
    tenant: UUID
    dead: int
    kinds: Kinds

    async def redrive(self) -> list[int]:
        return (await ControlStore(self.db, self.kinds).redrive(step(self.tenant), [self.dead]))[0]

    async def wait_for(self) -> int:
        item = step(self.tenant), NewJob("k", b"{}", 2, 0, None, 3, "", ties=Ties(waits_for=(self.dead,)))
        ((answer,), _, _) = await JobStore(self.db, self.kinds).enqueue(self.tenant, [item], gate=None, at=AT)
        assert isinstance(answer, int)
        return answer

    async def comes_free(self, waiting: int) -> None:
        """Whoever waits does so until it is done, and no longer."""
        leases = Leases(self.db)
        await freed(self.db, self.kinds)
        assert (await JobStore(self.db, self.kinds).get(self.tenant, waiting)).state == "held"
        assert await end_all(leases) == [self.dead]
        assert await freed(self.db, self.kinds) == [waiting]


@pytest.fixture
async def crossing(own_db: Database) -> Crossing:
    kinds, tenant, leases = Kinds(), uuid4(), Leases(own_db)
    item = step(tenant), NewJob("k", b"{}", 2, 0, None, 3, "")
    ((dead,), _, _) = await JobStore(own_db, kinds).enqueue(tenant, [item], gate=None, at=AT)
    assert isinstance(dead, int)
    (leased,) = await leases.lease_ready(Asked((), 1, AT + timedelta(seconds=30), "w"))
    await leases.fail([Failure(LeaseRef(dead, leased.lease_token or 0), "x", False, None, 0.5)], AT)
    return Crossing(own_db, tenant, dead, kinds)


async def test_a_dead_letter_is_redriven_after_somebody_has_begun_to_wait_for_it(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, go = asyncio.Event(), asyncio.Event()
    insert = ties.insert_tied

    async def insert_slowly(*args: Any, **options: Any) -> dict[int, int]:
        states = await insert(*args, **options)
        stored.set()
        await go.wait()
        return states

    monkeypatch.setattr(ties, "insert_tied", insert_slowly)
    waiting = asyncio.create_task(crossing.wait_for())
    await stored.wait()
    redriven = asyncio.create_task(crossing.redrive())
    await asyncio.sleep(0.1)
    go.set()
    assert await redriven == [crossing.dead]
    await crossing.comes_free(await waiting)


async def test_somebody_begins_to_wait_for_a_dead_letter_after_it_was_redriven(crossing: Crossing) -> None:
    control = ControlStore(crossing.db, crossing.kinds)
    async with crossing.db.tenant(crossing.tenant) as connection:
        redriven, _ = await control._risen(connection, step(crossing.tenant), [crossing.dead])
        assert redriven == [crossing.dead]
        waiting = asyncio.create_task(crossing.wait_for())
        await asyncio.sleep(0.1)
    await crossing.comes_free(await waiting)


async def test_a_dead_letter_is_redriven_between_the_two_places_where_somebody_looks_for_it(
    crossing: Crossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = ties._look

    class Between:
        """Redrives the dead letter when it has been missed among the jobs, and before it is missed among the dead."""

        def __init__(self, connection: Connection) -> None:
            self._connection = connection

        async def fetch(self, query: str, *args: Any) -> list[Any]:
            rows = await self._connection.fetch(query, *args)
            if query == ties.sql.lock_jobs:
                assert await crossing.redrive() == [crossing.dead]
            return rows

    async def look_slowly(connection: Any, *args: Any) -> dict[int, int]:
        monkeypatch.setattr(ties, "_look", look)
        return await look(cast("Connection", Between(connection)), *args)

    monkeypatch.setattr(ties, "_look", look_slowly)
    await crossing.comes_free(await crossing.wait_for())


async def test_who_is_redriven_does_not_wait_for_who_stands_behind_and_is_in_nobodys_hands(own_db: Database) -> None:
    kinds, tenant = Kinds(), uuid4()
    jobs, leases, control = JobStore(own_db, kinds), Leases(own_db), ControlStore(own_db, kinds)
    later = AT + timedelta(days=7)
    items = [
        (step(tenant), NewJob("k", b"{}", 2, 0, run_at, 3, "", ties=Ties(ordering_key="o"))) for run_at in (None, later)
    ]
    answers, _, _ = await jobs.enqueue(tenant, items, gate=None, at=AT)
    first, second = (answer for answer in answers if isinstance(answer, int))
    (leased,) = await leases.lease_ready(Asked((), 10, AT + timedelta(seconds=30), "w"))
    await leases.fail([Failure(LeaseRef(first, leased.lease_token or 0), "x", False, None, 0.5)], AT)
    assert await freed(own_db, kinds) == [second]
    assert (await control.redrive(step(tenant), [first]))[0] == [first]
    assert (await jobs.get(tenant, second)).state == "held"
    assert await end_all(leases) == [first]
    assert await freed(own_db, kinds) == [second]
    # It is there again as it was: not before its time.
    assert (await jobs.get(tenant, second)).state == "scheduled"
    assert await end_all(leases) == []


@dataclass
class Handed:
    """Two jobs of a key: the first is dead, and the second in hand."""

    db: Database
    tenant: UUID
    kinds: Kinds
    leases: Leases
    first: int
    second: LeaseRef

    async def snooze(self) -> None:
        await self.leases.snooze([Snooze(self.second, timedelta(days=6), "later")], AT)

    async def redrive(self) -> None:
        assert (await ControlStore(self.db, self.kinds).redrive(step(self.tenant), [self.first]))[0] == [self.first]

    async def goes_on(self) -> None:
        """The first is leased though the second is not due for long, which is there again after it."""
        await freed(self.db, self.kinds)
        assert (await JobStore(self.db, self.kinds).get(self.tenant, self.second.job_id)).state == "held"
        assert await end_all(self.leases) == [self.first]
        assert await freed(self.db, self.kinds) == [self.second.job_id]
        assert (await JobStore(self.db, self.kinds).get(self.tenant, self.second.job_id)).state == "scheduled"


@pytest.fixture
async def handed(own_db: Database) -> Handed:
    kinds, tenant, leases = Kinds(), uuid4(), Leases(own_db)
    items = [(step(tenant), NewJob("k", b"{}", 2, 0, None, 3, "", ties=Ties(ordering_key="o"))) for _ in range(2)]
    await JobStore(own_db, kinds).enqueue(tenant, items, gate=None, at=AT)
    refs = []
    for failing in (True, False):
        (leased,) = await leases.lease_ready(Asked((), 10, AT + timedelta(seconds=30), "w"))
        refs.append(LeaseRef(leased.id, leased.lease_token or 0))
        if failing:
            await leases.fail([Failure(refs[0], "x", False, None, 0.5)], AT)
            await freed(own_db, kinds)
    return Handed(own_db, tenant, kinds, leases, refs[0].job_id, refs[1])


async def test_who_is_put_off_while_another_of_its_key_is_being_redriven_gives_way(handed: Handed) -> None:
    control = ControlStore(handed.db, handed.kinds)
    async with handed.db.tenant(handed.tenant) as connection:
        await control._risen(connection, step(handed.tenant), [handed.first])
        # Neither waits for the other, nor sees what he does.
        await handed.snooze()
    await handed.goes_on()


async def test_who_is_redriven_while_another_of_its_key_is_being_put_off_goes_before(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go = asyncio.Event(), asyncio.Event()
    give_way = ties.give_way

    async def give_way_slowly(*args: Any) -> bool:
        woken = await give_way(*args)
        looked.set()
        await go.wait()
        return woken

    monkeypatch.setattr(leases_of, "give_way", give_way_slowly)
    snoozed = asyncio.create_task(handed.snooze())
    await looked.wait()
    redriven = asyncio.create_task(handed.redrive())
    await asyncio.sleep(0.1)
    go.set()
    await asyncio.gather(snoozed, redriven)
    await handed.goes_on()


async def test_the_hourly_round_wakes_who_waits_for_one_that_was_put_off(handed: Handed) -> None:
    await handed.redrive()
    # As a process of the version before did.
    async with handed.db.maintenance() as connection:
        await connection.execute(
            "UPDATE jobs SET state = 0, lease_token = NULL, run_at = $2 WHERE id = $1",
            handed.second.job_id,
            AT + timedelta(days=6),
        )
    assert await freed(handed.db, handed.kinds) == []
    await Settling().settle(handed.db, AT)
    await handed.goes_on()
