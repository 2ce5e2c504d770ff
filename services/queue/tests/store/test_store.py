"""The stores on a real database that nothing else touches; time is passed in."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from services.queue.tests.leases import Leases

from penguin_chassis.barrier import ACTION, COMPENSATION, Step
from penguin_chassis.faults import Aborted, Fault, InvalidArgument
from penguin_chassis.pool import Database
from penguin_queue.domain.fleet import SPARED, Fleet
from penguin_queue.domain.jobs import Job, LeaseRef, NewBatch, NewJob
from penguin_queue.domain.queues import COMPLETED_RETENTION, DEAD_RETENTION
from penguin_queue.operations.hearing import Hearing
from penguin_queue.store import attempts, census, control, due, jobs, kinds, leases, queues, retention, settling
from penguin_queue.store.fleet import FleetStore
from penguin_queue.store.jobs import LAST, Enqueued, JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import LEASE_BYTES, Asked, LeaseStore
from penguin_queue.store.retention import keep_partitions

# What the first queue says.
LOST_LEASE_LIMIT = 5
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


def item(tenant: UUID, *, kind: str = "k", priority: int = 2, run_at: datetime | None = None) -> tuple[Step, NewJob]:
    name = uuid4()
    step = Step(tenant, f"req:{name}", hashlib.sha256(name.bytes).digest(), AT)
    return step, NewJob(kind, b"{}", priority, 0, run_at, 10, "")


async def enqueue(db: Database, tenant: UUID, count: int, **fields: object) -> list[int]:
    items = [item(tenant, **fields) for _ in range(count)]  # type: ignore[arg-type]
    answers, _, _ = await JobStore(db, Kinds()).enqueue(tenant, items, gate=None, at=AT)
    return [answer for answer in answers if isinstance(answer, int)]


def asked(max_jobs: int, *kinds: str, at: datetime = AT) -> Asked:
    return Asked(kinds, max_jobs, at + LEASE, "w")


def ref(job: Job) -> LeaseRef:
    assert job.lease_token is not None
    return LeaseRef(job.id, job.lease_token)


async def complete(store: LeaseStore, at: datetime, *refs: LeaseRef) -> set[LeaseRef]:
    """Those that were completed."""
    lost = await store.complete([ref.job_id for ref in refs], [ref.token for ref in refs], at)
    return {ref for ref in refs if ref.job_id not in lost}


async def test_every_query_fits_the_schema(own_db: Database) -> None:
    async with own_db.maintenance() as connection:
        for queries in (
            attempts.sql, census.sql, control.sql, due.sql, jobs.sql, kinds.sql, leases.sql, queues.sql, retention.sql,
            settling.sql,
        ):  # fmt: skip
            for name, query in queries.names().items():
                assert (await connection.prepare(query)).get_query() == query, name


async def test_high_priority_first_then_tenants_in_even_shares(own_db: Database) -> None:
    deep, small, urgent = uuid4(), uuid4(), uuid4()
    await enqueue(own_db, deep, 500)
    await enqueue(own_db, small, 3)
    await enqueue(own_db, urgent, 2, priority=1)
    store = Leases(own_db)
    leased = await store.lease_ready(asked(10))
    by_tenant = {t: sum(j.tenant_id == t for j in leased) for t in (deep, small, urgent)}
    assert by_tenant == {urgent: 2, small: 3, deep: 5}
    # What the shares leave over goes to whoever has more.
    assert len(await store.lease_ready(asked(400))) == 400


async def test_single_leases_go_round_the_tenants(own_db: Database) -> None:
    tenants = [uuid4() for _ in range(4)]
    for tenant in tenants:
        await enqueue(own_db, tenant, 50)
    store = Leases(own_db)
    served = [(await store.lease_ready(asked(1)))[0].tenant_id for _ in range(8)]
    assert served[:4] == served[4:]
    assert set(served) == set(tenants)


async def test_kinds_nobody_asks_for_stand_in_nobodys_way(own_db: Database) -> None:
    tenant = uuid4()
    await enqueue(own_db, tenant, 300, kind="foreign", priority=1)
    wanted = await enqueue(own_db, tenant, 2, kind="mine", priority=3)
    leased = await Leases(own_db).lease_ready(asked(10, "mine", "other"))
    assert {job.id for job in leased} == set(wanted)


async def test_a_lost_lease_is_given_again_and_the_old_token_moves_nothing(own_db: Database) -> None:
    await enqueue(own_db, uuid4(), 1)
    store = Leases(own_db)
    (first,) = await store.lease_ready(asked(1))
    assert (await store.sweep(AT + LEASE - timedelta(seconds=1))).ready == []
    swept = await store.sweep(AT + LEASE)
    assert [r.id for r in swept.ready] == [first.id]
    (second,) = await store.lease_ready(asked(1, at=AT + LEASE))
    assert (second.id, second.lost_leases) == (first.id, 1)
    assert await complete(store, AT, ref(first)) == set()
    assert await store.extend([ref(first)], AT + 2 * LEASE) == (set(), [])
    assert await complete(store, AT, ref(second)) == {ref(second)}


async def test_a_late_worker_may_complete_until_another_has_the_job(own_db: Database) -> None:
    await enqueue(own_db, uuid4(), 1)
    store = Leases(own_db)
    (job,) = await store.lease_ready(asked(1))
    await store.sweep(AT + LEASE)
    assert await complete(store, AT + LEASE, ref(job)) == {ref(job)}
    assert await store.lease_ready(asked(1)) == []
    # Told twice because the first reply was lost: still done, and under no other token.
    assert await complete(store, AT + LEASE, ref(job)) == {ref(job)}
    assert await complete(store, AT, LeaseRef(job.id, 1)) == set()


async def test_a_job_that_loses_every_worker_is_buried(own_db: Database) -> None:
    tenant = uuid4()
    (job_id,) = await enqueue(own_db, tenant, 1)
    store = Leases(own_db)
    at = AT
    for _ in range(LOST_LEASE_LIMIT):
        await store.lease_ready(asked(1, at=at))
        at += LEASE
        assert len((await store.sweep(at)).ready) == 1
    await store.lease_ready(asked(1, at=at))
    swept = await store.sweep(at + LEASE)
    assert (swept.ready, swept.buried) == ([], 1)
    dead = await JobStore(own_db, Kinds()).get(tenant, job_id)
    assert (dead.state, dead.last_error, dead.lost_leases, dead.attempts) == ("dead", "lease_lost", 6, 0)


async def test_a_job_is_spared_while_the_fleet_is_away_and_not_for_ever(own_db: Database) -> None:
    tenant = uuid4()
    (job_id,) = await enqueue(own_db, tenant, 1)
    store, at, away = Leases(own_db), AT, Fleet(0.0, 0.0)
    for _ in range(LOST_LEASE_LIMIT + SPARED):
        await store.lease_ready(asked(1, at=at))
        at += LEASE
        assert [ready.id for ready in (await store.sweep(at, fleet=away)).ready] == [job_id]
    await store.lease_ready(asked(1, at=at))
    swept = await store.sweep(at + LEASE, fleet=away)
    assert (swept.buried, swept.lost) == (1, 1)


def known(fleet: Fleet | None) -> Fleet:
    assert fleet is not None
    return fleet


async def test_a_process_frozen_as_it_tells_of_workers_keeps_no_other_from_sweeping(own_db: Database) -> None:
    hearing = Hearing(FleetStore(own_db))
    hearing.heard(5)
    async with own_db.maintenance() as frozen, asyncio.timeout(5):
        await frozen.execute("SELECT FROM fleet FOR UPDATE")
        assert (await hearing.fleet(AT)).heard == 5
    later = AT + timedelta(seconds=2)
    assert (await hearing.fleet(later)).heard == 5, "what was not told is told the next time"


async def test_leases_that_ran_out_while_the_queue_was_away_are_no_loss(own_db: Database) -> None:
    tenant, store, told = uuid4(), Leases(own_db), FleetStore(own_db)
    (job_id,) = await enqueue(own_db, tenant, 1)
    at = AT
    for _ in range(LOST_LEASE_LIMIT + SPARED + 2):
        await told.tell(100, 0, at)
        await store.lease_ready(asked(1, at=at))
        at += LEASE
        # Nobody was there meanwhile: neither to hear a worker, nor to find its lease lost.
        swept = await store.sweep(at, fleet=known(await told.tell(0, 0, at)))
        assert ([ready.id for ready in swept.ready], swept.lost) == ([job_id], 0)
    job = await JobStore(own_db, Kinds()).get(tenant, job_id)
    # That one ran out at all is known: who held it may have begun.
    assert (job.state, job.lost_leases) == ("ready", 1)
    assert await JobStore(own_db, Kinds()).list_attempts(tenant, job_id, (at + LEASE, 0), 10) == []
    # One that runs out while the queue is there is.
    await store.lease_ready(asked(1, at=at))
    for second in range(int(LEASE.total_seconds()) + 1):
        fleet = known(await told.tell(1, 0, at + timedelta(seconds=second)))
    swept = await store.sweep(at + LEASE, fleet=fleet)
    assert ([ready.id for ready in swept.ready], swept.lost) == ([job_id], 1)


async def test_what_one_process_hears_all_know(own_db: Database) -> None:
    one, idle = Hearing(FleetStore(own_db)), Hearing(FleetStore(own_db))
    one.heard(50)
    await one.fleet(AT)
    # It hears no worker itself, and calls no stall for that.
    soon, later, last = (AT + timedelta(seconds=n, milliseconds=n) for n in (0, 1, 2))
    assert (await idle.fleet(soon)).spares(8, soon) == 0
    idle.lost(60)
    assert (await idle.fleet(later)).spares(1, later) == SPARED
    assert (await one.fleet(last)).spares(1, last) == SPARED
    # Nor does it forget when the other heard one last.
    assert (await idle.fleet(last)).heard_at == AT


async def test_the_sweep_finds_what_falls_due_and_says_when_the_next_does(own_db: Database) -> None:
    tenant = uuid4()
    soon, late = AT + timedelta(seconds=5), AT + timedelta(seconds=60)
    (first,) = await enqueue(own_db, tenant, 1, run_at=soon)
    await enqueue(own_db, tenant, 1, run_at=late)
    store = Leases(own_db)
    assert await store.lease_ready(asked(10)) == []
    assert (await store.sweep(AT)).next_at == soon
    swept = await store.sweep(soon)
    assert ([r.id for r in swept.ready], swept.next_at) == ([first], late)
    assert [job.id for job in await store.lease_ready(asked(10, at=soon))] == [first]


async def test_leasing_at_once_gives_each_job_to_one(own_db: Database) -> None:
    tenant = uuid4()
    ids = await enqueue(own_db, tenant, 300)
    stores = [Leases(own_db) for _ in range(4)]
    rounds = await asyncio.gather(
        *(store.lease_ready(asked(random.randint(1, 60))) for store in stores for _ in range(3)),
    )
    given = [job.id for leased in rounds for job in leased]
    assert len(given) == len(set(given))
    rest = await stores[0].lease_ready(asked(1000))
    assert {*given, *(job.id for job in rest)} == set(ids)


async def test_a_batch_is_stored_whole_and_once(own_db: Database) -> None:
    tenant = uuid4()
    store = JobStore(own_db, Kinds())
    step = Step(tenant, "req:batch", b"d", AT)
    batch = NewBatch("k", [b'{"n":%d}' % n for n in range(250)], 2, 0, None, 10, ())
    done = await store.enqueue_batch(step, batch)
    ids, new = done.ids, done.new
    assert (len(ids), new) == (250, True)
    assert await store.enqueue_batch(step, batch) == Enqueued(ids, batch)
    leased = await Leases(own_db).lease_ready(asked(1000))
    assert {job.id: job.payload for job in leased} == dict(zip(ids, batch.payloads, strict=True))
    with pytest.raises(InvalidArgument) as refused:
        await store.enqueue_batch(Step(tenant, "req:other", b"d", AT), replace(batch, payloads=[b"{}", b"[]"]))
    assert refused.value.field == "payloads[1]"
    assert await Leases(own_db).lease_ready(asked(1000)) == []


async def test_a_compensated_batch_takes_its_jobs_back_and_bars_its_action(own_db: Database) -> None:
    tenant = uuid4()
    store, batch = JobStore(own_db, Kinds()), NewBatch("k", [b"{}"] * 3, 2, 0, None, 10, ())
    action = Step(tenant, "saga:1:jobs", b"d", AT, operation=ACTION)
    undo = Step(tenant, "saga:1:jobs", b"d", AT, operation=COMPENSATION)
    ids = (await store.enqueue_batch(action, batch)).ids
    for _ in range(2):
        assert await store.enqueue_batch(undo, batch) == Enqueued(ids, batch)
    assert await Leases(own_db).lease_ready(asked(10)) == []
    with pytest.raises(Aborted):
        await store.enqueue_batch(action, batch)
    late = Step(tenant, "saga:2:jobs", b"d", AT, operation=COMPENSATION)
    assert await store.enqueue_batch(late, batch) == Enqueued(range(0), batch)


@pytest.mark.parametrize("columns", [False, True])
async def test_no_more_is_leased_than_the_bytes_of_a_lease(own_db: Database, columns: bool) -> None:
    tenant, store = uuid4(), JobStore(own_db, Kinds())
    payloads = [b'{"a":"%s"}' % (b"x" * 60_000)] * 60
    ids = (await store.enqueue_batch(Step(tenant, "req:1", b"d", AT), NewBatch("k", payloads, 2, 0, None, 10, ()))).ids
    leases_of = Leases(own_db)
    if columns:
        leased = [job_id for lot in await leases_of.lots(asked(1000)) for job_id in lot.ids]
    else:
        leased = [job.id for job in await leases_of.lease_ready(asked(1000))]
    assert sorted(leased) == list(ids[: -(-LEASE_BYTES // len(payloads[0]))])
    async with own_db.maintenance() as connection:
        assert await connection.fetchval("SELECT count(*) FROM jobs WHERE state = 2") == len(leased)


async def test_lower_ranks_go_first_within_a_priority(own_db: Database) -> None:
    tenant, store = uuid4(), JobStore(own_db, Kinds())
    for n, rank in enumerate((5, -5, 0)):
        await store.enqueue_batch(Step(tenant, f"req:{n}", b"d", AT), NewBatch("k", [b"{}"], 2, rank, None, 10, ()))
    leases_of = Leases(own_db)
    assert [(await leases_of.lease_ready(asked(1)))[0].rank for _ in range(3)] == [-5, 0, 5]


async def test_waiting_jobs_are_leased_in_the_place_they_are_given(own_db: Database) -> None:
    tenant, leases_of = uuid4(), Leases(own_db)
    first, second, third = await enqueue(own_db, tenant, 3)
    place = control.ControlStore(own_db, Kinds()).set_priority
    assert (await place(Step(tenant, "req:1", b"d", AT), [third], 1, None))[0] == [third]
    assert (await place(Step(tenant, "req:2", b"d", AT), [second], 2, -3))[0] == [second]
    assert [(await leases_of.lease_ready(asked(1)))[0].id for _ in range(3)] == [third, second, first]


async def test_ids_of_many_processes_never_meet(own_db: Database) -> None:
    stores = [JobStore(own_db, Kinds()) for _ in range(4)]
    given: list[int] = []

    async def fill(store: JobStore, name: int) -> None:
        for n in range(5):
            step = Step(uuid4(), f"req:{name}.{n}", b"d", AT)
            given.extend((await store.enqueue_batch(step, NewBatch("k", [b"{}"] * 900, 2, 0, None, 10, ()))).ids)

    await asyncio.gather(*(fill(store, n) for n, store in enumerate(stores)))
    assert len(given) == len(set(given)) == 4 * 5 * 900


async def test_a_compensated_enqueue_takes_its_jobs_back_and_bars_its_action(own_db: Database) -> None:
    tenant = uuid4()
    items = [item(tenant), item(tenant)]
    store = JobStore(own_db, Kinds())
    action = Step(tenant, "saga:1:enqueue", b"d", AT, operation=ACTION)
    undo = Step(tenant, "saga:1:enqueue", b"d", AT, operation=COMPENSATION)
    for _ in range(2):  # the second time is a replay
        assert not any(isinstance(a, Fault) for a in (await store.enqueue(tenant, items, gate=action, at=AT))[0])
    for _ in range(2):
        await store.enqueue(tenant, items, gate=undo, at=AT)
    assert await Leases(own_db).lease_ready(asked(10)) == []
    with pytest.raises(Aborted) as refused:
        await store.enqueue(tenant, items, gate=action, at=AT)
    assert refused.value.reason == "SAGA_COMPENSATED"


async def test_history_goes_by_partition_and_dead_letters_outlive_it(own_db: Database) -> None:
    tenant = uuid4()
    await enqueue(own_db, tenant, 3)
    today = datetime.now(UTC)
    store, reader = Leases(own_db), JobStore(own_db, Kinds())
    done, killed, old = await store.lease_ready(asked(3))
    await complete(store, today, ref(done))
    await complete(store, today - COMPLETED_RETENTION - timedelta(hours=1), ref(old))  # in the default partition
    async with own_db.maintenance() as connection:
        await connection.execute(leases.sql.bury, [killed.id], ["x"], today)

    async def states(at: datetime) -> set[str]:
        await keep_partitions(own_db, at)
        return {job.state for job in await reader.list_page(tenant, before=LAST, state="", kind="", limit=10)}

    await keep_partitions(own_db, today)
    assert len(await reader.list_page(tenant, before=LAST, state="completed", kind="", limit=10)) == 1
    assert await states(today + timedelta(days=6)) == {"completed", "dead"}
    assert await states(today + COMPLETED_RETENTION + timedelta(days=2)) == {"dead"}
    assert await states(today + DEAD_RETENTION - timedelta(days=1)) == {"dead"}
    assert await states(today + DEAD_RETENTION + timedelta(days=33)) == set()


async def test_tenants_see_their_own_jobs_only(own_db: Database) -> None:
    mine, other = uuid4(), uuid4()
    await enqueue(own_db, mine, 1)
    async with own_db.tenant(other) as connection:
        for table in ("jobs", "completed_jobs", "dead_jobs"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with own_db.tenant(other) as connection:
            await connection.fetch(leases.sql.lease_lanes, *[[]] * 9, 1, *[[]] * 4, AT, 1)
