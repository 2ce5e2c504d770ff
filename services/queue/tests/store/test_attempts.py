"""The log of attempts, progress, results and what is discarded, in the stores; time is passed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from services.queue.tests.leases import Leases
from services.queue.tests.store.test_store import AT, LEASE, asked, enqueue, ref

from penguin_chassis import subjects
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import Attempt, Failure, Job, Progress, PurgeFilter
from penguin_queue.domain.queues import Terms
from penguin_queue.store import attempts
from penguin_queue.store.control import ControlStore
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.queues import QueueStore

END = datetime(9999, 1, 1, tzinfo=UTC), 0


async def log_of(db: Database, tenant: UUID, job_id: int, limit: int = 1000) -> list[Attempt]:
    return await JobStore(db, Kinds()).list_attempts(tenant, job_id, END, limit)


def failed(job: Job, error: str = "smtp.451", *, retryable: bool = True, message: str = "") -> Failure:
    return Failure(ref(job), error, retryable, timedelta(0), 0.5, message)


async def put(db: Database, name: str, kind: str, **fields: int) -> None:
    """A queue with one kind in it."""
    store = QueueStore(db, Kinds())
    usual: dict[str, Any] = {
        "priority": 2,
        "max_attempts": 10,
        "backoff_base": 1000,
        "backoff_cap": 1000,
        "lost_lease_limit": 5,
    }
    await store.put(Step(UUID(int=0), f"req:{uuid4()}", b"d", AT), Terms(name, max_in_flight=0, **usual | fields))
    await store.move_kinds(Step(UUID(int=0), f"req:{uuid4()}", b"d", AT), name, [kind])


async def test_every_attempt_that_fails_or_is_lost_is_logged_and_success_is_not(own_db: Database) -> None:
    tenant, store = uuid4(), Leases(own_db)
    (job_id,) = await enqueue(own_db, tenant, 1)
    (job,) = await store.lease_ready(asked(1))
    await store.fail([failed(job, "x" * 300, message="the server was busy")], AT)
    await store.lease_ready(asked(1))
    await store.sweep(AT + LEASE)
    (job,) = await store.lease_ready(asked(1, at=AT + LEASE))
    await store.fail([failed(job, "final", retryable=False)], AT + 2 * LEASE)
    assert await log_of(own_db, tenant, job_id) == [
        Attempt(3, "failed", "final", "", "w", AT + 2 * LEASE),
        Attempt(2, "lost", "lease_lost", "", "w", AT + LEASE),
        Attempt(1, "failed", "x" * 200, "the server was busy", "w", AT),
    ]
    (done_id,) = await enqueue(own_db, tenant, 1)
    (done,) = await store.lease_ready(asked(1))
    await store.complete([done.id], [ref(done).token], AT)
    assert await log_of(own_db, tenant, done_id) == []
    assert await log_of(own_db, uuid4(), job_id) == []


async def test_pages_of_attempts_follow_one_another(own_db: Database) -> None:
    tenant, store = uuid4(), Leases(own_db)
    (job_id,) = await enqueue(own_db, tenant, 1)
    for _ in range(5):  # all at one time: the number decides
        (job,) = await store.lease_ready(asked(1))
        await store.fail([failed(job)], AT)
    reader, seen, before = JobStore(own_db, Kinds()), list[int](), END
    for _ in range(3):
        page = await reader.list_attempts(tenant, job_id, before, 2)
        seen += [each.number for each in page]
        before = page[-1].finished_at, page[-1].number
    assert seen == [5, 4, 3, 2, 1]


async def test_a_buried_and_a_cancelled_job_that_were_lost_are_logged(own_db: Database) -> None:
    tenant, store = uuid4(), Leases(own_db)
    await put(own_db, "frail", "k", lost_lease_limit=0)
    poison, cancelled, told = await enqueue(own_db, tenant, 3)
    leased = {job.id: job for job in await store.lease_ready(asked(3))}
    await ControlStore(own_db, Kinds()).cancel(Step(tenant, "req:1", b"d", AT), [cancelled, told])
    await store.fail([failed(leased[told], "smtp.550")], AT)
    await store.sweep(AT + LEASE)
    logged = {n: [(a.number, a.outcome) for a in await log_of(own_db, tenant, n)] for n in (poison, cancelled, told)}
    assert logged == {poison: [(1, "lost")], cancelled: [(1, "lost")], told: [(1, "failed")]}


async def test_only_the_last_entries_of_a_job_are_kept(own_db: Database) -> None:
    tenant, store = uuid4(), Leases(own_db)
    await put(own_db, "patient", "k", max_attempts=100, lost_lease_limit=100)
    (job_id,) = await enqueue(own_db, tenant, 1)
    async with own_db.maintenance() as connection:
        await connection.execute("UPDATE jobs SET max_attempts = 100 WHERE id = $1", job_id)
    at = AT
    for _ in range(attempts.KEPT):
        (job,) = await store.lease_ready(asked(1, at=at))
        await store.fail([failed(job)], at)
        at += LEASE
    assert len(await log_of(own_db, tenant, job_id)) == attempts.KEPT
    for _ in range(2):  # one is lost, one fails
        await store.lease_ready(asked(1, at=at))
        at += LEASE
        await store.sweep(at)
        (job,) = await store.lease_ready(asked(1, at=at))
        await store.fail([failed(job)], at)
    assert [each.number for each in await log_of(own_db, tenant, job_id)] == list(range(54, 4, -1))


async def test_no_entry_goes_while_a_person_is_held_or_a_hold_is_being_put(own_db: Database) -> None:
    tenant, other = uuid4(), uuid4()
    hold = (tenant, uuid4(), "a" * 64, "", "Case 7", "test", AT, b"")

    async def entries() -> list[int]:
        async with own_db.maintenance() as connection:
            return [
                await connection.fetchval("SELECT count(*) FROM job_attempts WHERE tenant_id = $1", each)
                for each in (tenant, other)
            ]

    async def prune() -> None:
        async with own_db.maintenance() as connection:
            await attempts.prune(connection, [(each, 1, attempts.KEPT + 2) for each in (tenant, other)])

    async with own_db.maintenance() as connection:
        row = attempts.sql.record
        for each in (tenant, other):
            for n in (1, 2, 3):
                await connection.execute(row, AT + n * LEASE, [each], [1], [n], ["x"], [""], ["w"])
    async with own_db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.no_removals)
        await prune()
        assert await entries() == [3, 3], "it waits for nobody: its jobs are locked"
        await connection.execute(subjects.sql.put_hold, *hold)
    await prune()
    assert await entries() == [3, 1]
    async with own_db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.release_hold, tenant, hold[1])
    await prune()
    assert await entries() == [1, 1]


async def test_progress_is_kept_where_the_lease_is_the_callers_and_through_a_failure(own_db: Database) -> None:
    tenant, store, reader = uuid4(), Leases(own_db), JobStore(own_db, Kinds())
    first, second = await enqueue(own_db, tenant, 2)
    jobs = {job.id: job for job in await store.lease_ready(asked(2))}
    told = Progress(3, 10, "page 3", AT)
    refs = [ref(jobs[first]), ref(jobs[second])]
    assert await store.extend(refs, AT + 2 * LEASE, {first: told}) == (set(refs), [])
    assert [(await reader.get(tenant, n)).progress for n in (first, second)] == [told, None]
    assert (await reader.get(tenant, first)).leased_until == AT + 2 * LEASE
    # Said of another only: the first one's stays, and so it does without any.
    await store.extend(refs, AT + 2 * LEASE, {second: Progress(0, 0, "", AT)})
    await store.extend(refs, AT + 2 * LEASE)
    assert [(await reader.get(tenant, n)).progress for n in (first, second)] == [told, Progress(0, 0, "", AT)]
    strange = [ref(jobs[first])._replace(token=1)]
    assert await store.extend(strange, AT + 2 * LEASE, {first: Progress(9, 9, "stolen", AT)}) == (set(), [])
    await store.fail([failed(jobs[first])], AT)
    (kept,) = await reader.list_page(tenant, before=2**62, state="ready", kind="", limit=9)
    assert (kept.id, kept.progress) == (first, told)


async def test_results_stay_with_the_jobs_they_are_of_and_repeats_change_none(own_db: Database) -> None:
    tenant, store, reader = uuid4(), Leases(own_db), JobStore(own_db, Kinds())
    ids = await enqueue(own_db, tenant, 3)
    tokens = [ref(job).token for job in await store.lease_ready(asked(3))]
    assert await store.complete(ids, tokens, AT, {ids[1]: "s3://reports/1"}) == []
    assert await store.complete(ids, tokens, AT, {ids[0]: "late"}) == []
    assert [(await reader.get(tenant, n)).result for n in ids] == ["", "s3://reports/1", ""]
    # Under several tokens, too.
    more = [*await enqueue(own_db, tenant, 1), *await enqueue(own_db, tenant, 1)]
    leased = [*await store.lease_ready(asked(1)), *await store.lease_ready(asked(1))]
    results = {job.id: f"r{job.id}" for job in leased}
    assert await store.complete([job.id for job in leased], [ref(job).token for job in leased], AT, results) == []
    assert {n: (await reader.get(tenant, n)).result for n in more} == results


async def test_a_queue_that_keeps_no_dead_letters_leaves_only_history(own_db: Database) -> None:
    tenant, store, reader = uuid4(), Leases(own_db), JobStore(own_db, Kinds())
    await put(own_db, "fleeting", "k", dead_letters=2, lost_lease_limit=0)
    refused, lost = await enqueue(own_db, tenant, 2)
    (kept,) = await enqueue(own_db, tenant, 1, kind="other")
    leased = {job.id: job for job in await store.lease_ready(asked(3))}
    _, dead, _ = await store.fail([failed(leased[n], "smtp.550", retryable=False) for n in (refused, kept)], AT)
    assert dead == {ref(leased[refused]), ref(leased[kept])}
    assert (await store.sweep(AT + LEASE)).buried == 1
    jobs = {n: await reader.get(tenant, n) for n in (refused, lost, kept)}
    assert {n: (job.state, job.last_error) for n, job in jobs.items()} == {
        refused: ("discarded", "smtp.550"), lost: ("discarded", "lease_lost"), kept: ("dead", "smtp.550"),
    }  # fmt: skip
    # What was discarded was not done, whoever says so late, and is not to be redriven.
    late = ref(leased[refused])
    assert await store.complete([late.job_id], [late.token], AT) == [refused]
    control_of = ControlStore(own_db, Kinds())
    assert (await control_of.redrive(Step(tenant, "req:1", b"d", AT), [refused, lost]))[0] == []
    counts = await reader.history(tenant)
    assert {count.state: count.count for count in counts} == {"discarded": 2, "dead": 1}
    chosen = PurgeFilter("discarded", "", None)
    assert (await control_of.purge(Step(tenant, "req:2", b"d", AT), chosen, 10)).count == 2
