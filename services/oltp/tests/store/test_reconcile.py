"""Receipts of reconcile: one caller at a time, taken on where it was left, begun no more often than asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from penguin_chassis.barrier import Step
from penguin_chassis.faults import FailedPrecondition, NotFound
from penguin_chassis.keys import sql as key_sql
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_oltp.domain.reconcile import FINISHED, LEASE, PLATFORM, REFUSED, Finding, Progress, Run, Terms
from penguin_oltp.store.reconcile import ReconcileStore, remove_old
from penguin_testkit.databases import Databases

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
TERMS = Terms(PLATFORM, apply=True, grace_s=60, cap=10)
AT_ONCE = timedelta()


@pytest.fixture
async def own_db(databases: Databases) -> AsyncIterator[Database]:
    """A database of this test alone: runs are the platform's."""
    urls = await databases.clone("oltp")
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=4)) as opened:
        yield opened


def step(at: datetime = NOW) -> Step:
    return Step(PLATFORM, f"req:{uuid4()}", b"d", at)


async def start(db: Database, owner: UUID, at: datetime = NOW, terms: Terms = TERMS) -> Run:
    return (await ReconcileStore(db).start(step(at), uuid4(), owner, terms, AT_ONCE)).run


def progress(tenant: UUID, **counts: int) -> Progress:
    return Progress(tenant, "keys", 7, done=True, counts=counts)


async def test_a_second_caller_waits_for_the_first_ones_lease_and_goes_on_from_there(own_db: Database) -> None:
    store, first, second, tenant = ReconcileStore(own_db), uuid4(), uuid4(), uuid4()
    run = await start(own_db, first)
    until = await store.record(step(NOW + LEASE / 2), run.id, first, progress(tenant, keys=5), ())
    assert until == NOW + LEASE / 2 + LEASE
    with pytest.raises(FailedPrecondition, match="under way"):
        await start(own_db, second, until - timedelta(seconds=1))
    taken = await store.start(step(until), uuid4(), second, TERMS, AT_ONCE)
    assert (taken.run.id, taken.run.owner) == (run.id, second)
    assert taken.progress == [progress(tenant, keys=5)]
    for late in (
        store.record(step(until), run.id, first, progress(tenant), ()),
        store.finish(step(), run.id, first, ""),
    ):
        with pytest.raises(FailedPrecondition, match="not the caller's"):
            await late


@pytest.mark.parametrize(
    ("terms", "later"),
    [(Terms(PLATFORM, apply=False, grace_s=60, cap=10), timedelta(hours=1)), (TERMS, timedelta(hours=25))],
    ids=["of other terms", "long ago"],
)
async def test_what_was_left_and_cannot_be_taken_on_is_ended(own_db: Database, terms: Terms, later: timedelta) -> None:
    left = await start(own_db, uuid4())
    run = await start(own_db, uuid4(), NOW + later, terms)
    assert run.id != left.id
    assert (await ReconcileStore(own_db).get(left.id)).status == REFUSED


async def test_no_other_is_begun_within_the_interval(own_db: Database) -> None:
    store, owner = ReconcileStore(own_db), uuid4()
    run = await start(own_db, owner)
    await store.finish(step(NOW), run.id, owner, "")
    hour = timedelta(hours=1)
    with pytest.raises(FailedPrecondition, match="too short"):
        await store.start(step(NOW + hour / 2), uuid4(), owner, TERMS, hour)
    one_tenant = Terms(uuid4(), apply=True, grace_s=60, cap=10)
    assert (await store.start(step(NOW + hour / 2), uuid4(), owner, one_tenant, hour)).run.tenant_id != PLATFORM


async def test_a_refused_run_and_one_that_only_told_hold_up_no_other_for_long(own_db: Database) -> None:
    store, owner, day = ReconcileStore(own_db), uuid4(), timedelta(days=1)
    run = await start(own_db, owner)
    await store.finish(step(NOW), run.id, owner, "olap does not answer")
    with pytest.raises(FailedPrecondition, match="too short"):
        await store.start(step(NOW + timedelta(minutes=59)), uuid4(), owner, TERMS, day)
    later = NOW + timedelta(minutes=61)
    telling = await start(own_db, owner, later, Terms(PLATFORM, apply=False, grace_s=60, cap=10))
    await store.finish(step(later), telling.id, owner, "")
    assert (await store.start(step(later), uuid4(), owner, TERMS, day)).run.id not in {run.id, telling.id}


async def test_a_run_that_left_a_tenant_uncompared_holds_up_no_other_for_long(own_db: Database) -> None:
    store, owner, day = ReconcileStore(own_db), uuid4(), timedelta(days=1)
    run = await start(own_db, owner)
    left_out = Progress(uuid4(), "left_out", 0, done=True, counts={"tenants_uncompared": 1})
    await store.record(step(), run.id, owner, left_out, ())
    await store.finish(step(), run.id, owner, "")
    with pytest.raises(FailedPrecondition, match="too short"):
        await store.start(step(NOW + timedelta(minutes=59)), uuid4(), owner, TERMS, day)
    later = NOW + timedelta(minutes=61)
    following = (await store.start(step(later), uuid4(), owner, TERMS, day)).run
    assert following.id != run.id
    await store.finish(step(later), following.id, owner, "")
    with pytest.raises(FailedPrecondition, match="too short"):
        await store.start(step(later + timedelta(hours=2)), uuid4(), owner, TERMS, day)


async def test_it_is_summed_up_and_owes_one_event(own_db: Database) -> None:
    store, owner, one, two = ReconcileStore(own_db), uuid4(), uuid4(), uuid4()
    run = await start(own_db, owner)
    found = [Finding(one, "orphan", "k/1", "content.contents", "") for _ in range(2)]
    counts = {"found.orphans": 1, "bytes": 10}
    await store.record(step(), run.id, owner, progress(one, **counts), found)
    await store.record(step(), run.id, owner, progress(one, **counts), found)
    await store.record(step(), run.id, owner, progress(two, **counts), ())
    ended = await store.finish(step(), run.id, owner, "")
    assert (ended.status, dict(ended.counts)) == (FINISHED, {"bytes": 20, "found.orphans": 2})
    assert await store.list_findings(run.id, (UUID(int=0), "", ""), 10) == found[:1]
    async with own_db.maintenance() as connection:
        (owed,) = await connection.fetch("SELECT tenant_id, kind FROM outbox")
    assert tuple(owed) == (PLATFORM, "create_admin_events")


async def test_the_latest_run_that_ended_a_part_tells_where_the_next_goes_on(own_db: Database) -> None:
    store, owner, tenant = ReconcileStore(own_db), uuid4(), uuid4()
    assert await store.last_progress(tenant, "subjects") is None
    for hours, to, done in ((0, 200, True), (1, 400, True), (2, 0, False)):
        at = NOW + timedelta(hours=hours)
        run = await start(own_db, owner, at)
        await store.record(step(at), run.id, owner, Progress(tenant, "subjects", to, done, {}), ())
        await store.finish(step(at), run.id, owner, "")
    last = await store.last_progress(tenant, "subjects")
    assert last == Progress(tenant, "subjects", 400, done=True, counts={}), "one that was not ended tells nothing"
    assert await store.last_progress(uuid4(), "subjects") is None


async def test_receipts_are_forgotten_after_a_year(own_db: Database) -> None:
    store, owner = ReconcileStore(own_db), uuid4()
    run = await start(own_db, owner)
    await store.record(step(), run.id, owner, progress(uuid4()), [Finding(uuid4(), "orphan", "k/1", "", "")])
    await store.finish(step(), run.id, owner, "")
    await remove_old(own_db, NOW + timedelta(days=364))
    assert (await store.get(run.id)).status == FINISHED
    await remove_old(own_db, NOW + timedelta(days=366))
    with pytest.raises(NotFound):
        await store.get(run.id)


@pytest.mark.parametrize("name", ["digest_generations", "digest_buckets", "list"])
async def test_sums_over_keys_are_read_from_the_index_of_keys(own_db: Database, name: str) -> None:
    tenant = uuid4()
    async with own_db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status,"
            " priority, content_storage_key, content_generation, message_id, queued_at)"
            " SELECT $1, gen_random_uuid(), 'a', repeat('n', 300), 's', '', 's', 'sent', 'normal', 'k' || n, n % 50,"
            " 'm', now() FROM generate_series(1, 5000) AS n", tenant,
        )  # fmt: skip
    buckets = ([3], [3], ["a"], 1)
    arguments = {"digest_generations": (3, 4, None), "digest_buckets": buckets, "list": (*buckets, -1, "", 10)}[name]
    async with own_db.tenant(tenant) as connection:
        rows = await connection.fetch(f"EXPLAIN {getattr(key_sql, name)}", tenant, "emails", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert "Index Only Scan using emails_content" in plan, plan
