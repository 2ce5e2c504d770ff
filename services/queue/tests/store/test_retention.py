"""How long jobs are kept that are over, by what their queues say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from services.queue.tests.leases import Leases
from services.queue.tests.store.test_attempts import put
from services.queue.tests.store.test_store import AT, asked, enqueue, ref

from penguin_chassis import subjects
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_queue.store import leases, retention
from penguin_queue.store.jobs import LAST, JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.queues import QueueStore
from penguin_queue.store.retention import comb, keep_partitions

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def over(db: Database, tenant: UUID, kind: str, count: int, at: datetime) -> list[int]:
    """Jobs that were completed at that time; their ids."""
    await enqueue(db, tenant, count, kind=kind)
    store = Leases(db)
    leased = await store.lease_ready(asked(count))
    await store.complete([job.id for job in leased], [ref(job).token for job in leased], at)
    return [job.id for job in leased]


async def buried(db: Database, tenant: UUID, kind: str, at: datetime) -> int:
    (job_id,) = await enqueue(db, tenant, 1, kind=kind)
    async with db.maintenance() as connection:
        await connection.execute(leases.sql.bury, [job_id], ["x"], at)
    return job_id


async def left(db: Database, tenant: UUID) -> set[int]:
    found = await JobStore(db, Kinds()).list_page(tenant, before=LAST, state="", kind="", limit=1000)
    return {job.id for job in found}


async def test_a_queue_that_keeps_less_than_others_is_combed_by_whole_days(
    own_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGES", 1)
    tenant, noon = uuid4(), TODAY + 12 * HOUR
    await put(own_db, "brief", "brief", completed_retention=3600)
    brief = await over(own_db, tenant, "brief", 300, noon)
    usual = await over(own_db, tenant, "usual", 300, noon)
    later = await over(own_db, tenant, "brief", 1, noon + DAY)
    await comb(own_db, noon + 2 * HOUR)
    assert await left(own_db, tenant) == {*brief, *usual, *later}
    # A day is combed when all of it is past the edge.
    await comb(own_db, TODAY + DAY + HOUR - timedelta(seconds=1))
    assert await left(own_db, tenant) == {*brief, *usual, *later}
    await comb(own_db, TODAY + DAY + HOUR)
    assert await left(own_db, tenant) == {*usual, *later}
    await comb(own_db, TODAY + 3 * DAY)
    assert await left(own_db, tenant) == set(usual)


async def test_a_day_is_combed_once(own_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = uuid4()
    await put(own_db, "brief", "brief", completed_retention=3600)
    await over(own_db, tenant, "brief", 3, TODAY)
    seen: list[datetime] = []
    combed = retention._comb_span

    async def watched(db: Database, kept: retention.Kept, row: object, first: datetime, last: datetime) -> bool:
        seen.append(first)
        return await combed(db, kept, row, first, last)

    monkeypatch.setattr(retention, "_comb_span", watched)
    for hours in range(5):
        await comb(own_db, TODAY + DAY + HOUR + hours * HOUR)
    assert (len(seen), seen.count(TODAY)) == (len(set(seen)), 1)


async def test_shortening_and_moving_kinds_comb_what_is_older(own_db: Database) -> None:
    tenant = uuid4()
    await put(own_db, "brief", "other", completed_retention=3600)
    old = await over(own_db, tenant, "usual", 2, TODAY - 3 * DAY)
    await comb(own_db, TODAY)
    assert await left(own_db, tenant) == set(old)
    step = Step(UUID(int=0), f"req:{uuid4()}", b"d", AT)
    await QueueStore(own_db, Kinds()).move_kinds(step, "brief", ["usual"])
    await comb(own_db, TODAY)
    assert await left(own_db, tenant) == set()


async def test_dead_letters_are_combed_within_their_month(own_db: Database) -> None:
    tenant = uuid4()
    await put(own_db, "brief", "brief", dead_retention=86400)
    early, late = [await buried(own_db, tenant, "brief", TODAY + n * DAY) for n in (0, 1)]
    usual = await buried(own_db, tenant, "usual", TODAY)
    await comb(own_db, TODAY + 2 * DAY)
    assert await left(own_db, tenant) == {late, usual}
    assert early != late


async def test_partitions_stay_for_as_long_as_any_queue_keeps_jobs(own_db: Database) -> None:
    tenant = uuid4()
    await put(own_db, "archive", "archive", completed_retention=30 * 86400)
    kept = await over(own_db, tenant, "archive", 1, TODAY)
    usual = await over(own_db, tenant, "usual", 1, TODAY)
    await keep_partitions(own_db, TODAY + 9 * DAY)
    assert await left(own_db, tenant) == {*kept, *usual}
    await comb(own_db, TODAY + 9 * DAY)
    assert await left(own_db, tenant) == set(kept)
    await keep_partitions(own_db, TODAY + 32 * DAY)
    assert await left(own_db, tenant) == set()


async def test_attempts_go_with_their_partitions(own_db: Database) -> None:
    async with own_db.maintenance() as connection:
        await connection.execute(
            "INSERT INTO job_attempts (job_id, finished_at, tenant_id, attempt, outcome, error)"
            " SELECT 1, at, $1, 1, 1, 'x' FROM unnest($2::timestamptz[]) AS at",
            uuid4(), [TODAY, TODAY - 20 * DAY],
        )  # fmt: skip
    for at, rows in ((TODAY, 1), (TODAY + 7 * DAY, 1), (TODAY + 9 * DAY, 0)):
        await keep_partitions(own_db, at)
        async with own_db.maintenance() as connection:
            assert await connection.fetchval("SELECT count(*) FROM job_attempts") == rows


async def test_what_is_being_removed_just_now_is_left_to_whom_it_is(own_db: Database) -> None:
    tenant = uuid4()
    await put(own_db, "brief", "brief", dead_retention=86400)
    held, free = [await buried(own_db, tenant, "brief", TODAY) for _ in range(2)]
    async with own_db.tenant(tenant) as connection:
        await connection.execute("SELECT FROM dead_jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE", tenant, held)
        await asyncio.wait_for(comb(own_db, TODAY + 2 * DAY), 5)
    assert await left(own_db, tenant) == {held}
    assert free != held


async def test_a_page_is_found_by_its_place(own_db: Database) -> None:
    tenant = uuid4()
    async with own_db.maintenance() as connection:
        await connection.execute(retention.sql.by_place)
        for query in (retention.sql.comb_completed, retention.sql.comb_dead):
            span = TODAY, TODAY + DAY, [1], (0, 0), (retention.PAGES, 0), [tenant]
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN (COSTS OFF) {query}", *span))
            assert "Tid Range Scan" in plan
            assert "Seq Scan" not in plan


async def test_nothing_of_a_tenant_goes_while_a_person_is_held(own_db: Database) -> None:
    tenant, other = uuid4(), uuid4()
    await put(own_db, "brief", "brief", completed_retention=3600)
    # Its days have no partitions: they are in the default one.
    held = [*await over(own_db, tenant, "brief", 2, TODAY), *await over(own_db, tenant, "usual", 2, TODAY)]
    held.append(await buried(own_db, tenant, "usual", TODAY))
    await over(own_db, other, "brief", 2, TODAY)
    await over(own_db, other, "usual", 2, TODAY)
    hold = (tenant, uuid4(), "a" * 64, "", "Case 7", "test", TODAY, b"")
    async with own_db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.put_hold, *hold)
    late = TODAY + 4000 * DAY
    await comb(own_db, late)
    await keep_partitions(own_db, late)
    assert (await left(own_db, tenant), await left(own_db, other)) == (set(held), set())
    async with own_db.tenant(tenant) as connection:
        await connection.execute(subjects.sql.release_hold, tenant, hold[1])
    await keep_partitions(own_db, late)
    assert await left(own_db, tenant) == set()
