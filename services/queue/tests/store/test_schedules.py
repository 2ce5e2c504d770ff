"""Schedules on a real database that no server fires on; time is passed in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from services.queue.tests.leases import Leases

from penguin_chassis import tenancy
from penguin_chassis.barrier import ACTION, COMPENSATION, Step
from penguin_chassis.faults import FailedPrecondition, NotFound, ResourceExhausted
from penguin_chassis.pool import Database
from penguin_queue.domain.schedules import RUN_ALL, RUN_ONCE, SKIP, Terms, Timing
from penguin_queue.store import schedules as module
from penguin_queue.store.jobs import LAST, JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import Asked
from penguin_queue.store.schedules import ScheduleStore

AT = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
DUE = datetime(2026, 3, 1, 12, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TERMS = Terms(
    "s", Timing("* * * * *", "UTC"), "k", b'{"n":1}', 0, 0, 0, RUN_ONCE, timedelta(seconds=60), "allow", paused=False
)


def step(tenant: UUID, at: datetime = AT) -> Step:
    return Step(tenant, f"req:{uuid4()}", b"d", at)


class Side:
    """A server's stores."""

    def __init__(self, db: Database) -> None:
        kinds = Kinds()
        self.jobs = JobStore(db, kinds)
        self.leases = Leases(db)
        self.schedules = ScheduleStore(db, kinds, self.jobs)

    async def ids(self, tenant: UUID) -> list[int]:
        found = await self.jobs.list_page(tenant, before=LAST, state="", kind="", limit=1000)
        return sorted(job.id for job in found)

    async def finish(self) -> None:
        leased = await self.leases.lease_ready(Asked((), 1000, DUE + timedelta(days=9), "w"))
        await self.leases.complete([j.id for j in leased], [j.lease_token or 0 for j in leased], DUE)


@pytest.fixture
def side(own_db: Database) -> Side:
    return Side(own_db)


async def test_every_query_fits_the_schema(own_db: Database) -> None:
    async with own_db.maintenance() as connection:
        for name, query in module.sql.names().items():
            assert (await connection.prepare(query)).get_query() == query, name


async def test_a_schedule_enqueues_its_job_at_its_time_and_moves_on(side: Side, tenant: UUID) -> None:
    put = await side.schedules.put(step(tenant), replace(TERMS, priority=1, rank=-3, max_attempts=4))
    assert (put.standing.next_at, put.standing.last_at, put.standing.last_job_id) == (DUE, None, 0)
    early = await side.schedules.fire(DUE - timedelta(microseconds=1), 10)
    assert (early.ready, early.more, early.next_at) == ([], False, DUE)
    fired = await side.schedules.fire(DUE, 10)
    (ready,) = fired.ready
    job = await side.jobs.get(tenant, ready.id)
    assert (job.kind, job.priority, job.rank, job.max_attempts, job.state) == ("k", 1, -3, 4, "ready")
    assert (ready.tenant_id, ready.kind, ready.priority, ready.run_at) == (tenant, "k", 1, DUE)
    assert (await side.jobs.payloads(tenant, [ready.id]))[0][1] == b'{"n":1}'
    standing = (await side.schedules.get(tenant, "s")).standing
    assert (standing.next_at, standing.last_at, standing.last_job_id) == (DUE + MINUTE, DUE, ready.id)
    assert (fired.next_at, (await side.schedules.fire(DUE, 10)).ready) == (DUE + MINUTE, [])


async def test_jobs_of_a_schedule_have_what_their_queue_says(side: Side, tenant: UUID) -> None:
    await side.schedules.put(step(tenant), TERMS)
    (ready,) = (await side.schedules.fire(DUE, 10)).ready
    job = await side.jobs.get(tenant, ready.id)
    assert (job.priority, job.max_attempts) == (2, 10)


async def test_side_by_side_servers_fire_each_run_once(own_db: Database) -> None:
    tenants = [uuid4() for _ in range(4)]
    sides = [Side(own_db) for _ in range(4)]
    for tenant in tenants:
        for n in range(10):
            await sides[0].schedules.put(step(tenant), replace(TERMS, name=f"s{n}", missed_runs=RUN_ALL))
    at = DUE + 2 * MINUTE
    ready: list[Any] = []

    async def fire(side: Side) -> None:
        # A look that found the rest in others' hands comes back empty, as the loop's does.
        while (fired := await side.schedules.fire(at, 3)).ready or (fired.next_at is not None and fired.next_at <= at):
            ready.extend(fired.ready)

    await asyncio.gather(*(fire(side) for side in sides))
    assert len({job.id for job in ready}) == len(ready) == 4 * 10 * 3
    for tenant in tenants:
        assert len(await sides[0].ids(tenant)) == 30


async def test_a_round_that_fails_halfway_has_fired_nothing(
    side: Side, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await side.schedules.put(step(tenant), TERMS)
    advance = module.sql.advance
    types = ("uuid", "text", "timestamptz", "timestamptz", "bigint", "bigint")
    fails = "SELECT 1 / (0 * count(*))" + "".join(f", ${n}::{name}" for n, name in enumerate(types, 1))
    monkeypatch.setattr(module.sql, "advance", fails)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await side.schedules.fire(DUE, 10)
    assert await side.ids(tenant) == []
    monkeypatch.setattr(module.sql, "advance", advance)
    assert len((await side.schedules.fire(DUE, 10)).ready) == 1
    assert len(await side.ids(tenant)) == 1


@pytest.mark.parametrize(("policy", "runs", "missed"), [(SKIP, 0, 6), (RUN_ONCE, 1, 5), (RUN_ALL, 6, 0)])
async def test_after_an_outage_the_policy_says_what_runs(
    side: Side, tenant: UUID, policy: str, runs: int, missed: int
) -> None:
    hourly = replace(TERMS, timing=Timing("0 * * * *", "UTC"), missed_runs=policy)
    await side.schedules.put(step(tenant), hourly)
    back = datetime(2026, 3, 1, 18, 30, tzinfo=UTC)
    fired = await side.schedules.fire(back, 10)
    assert len(fired.ready) == runs
    standing = (await side.schedules.get(tenant, "s")).standing
    assert (standing.missed, standing.next_at) == (missed, back + 30 * MINUTE)
    assert standing.last_at == (back - 30 * MINUTE if runs else None)
    assert len((await side.schedules.fire(back + 30 * MINUTE, 10)).ready) == 1


async def test_no_run_overlaps_one_that_is_not_over(side: Side, tenant: UUID) -> None:
    await side.schedules.put(step(tenant), replace(TERMS, overlap="skip"))
    (first,) = (await side.schedules.fire(DUE, 10)).ready
    assert (await side.schedules.fire(DUE + MINUTE, 10)).ready == []
    with pytest.raises(FailedPrecondition):
        await side.schedules.run(step(tenant), "s")
    standing = (await side.schedules.get(tenant, "s")).standing
    assert (standing.missed, standing.last_job_id, standing.next_at) == (1, first.id, DUE + 2 * MINUTE)
    await side.finish()
    (second,) = (await side.schedules.fire(DUE + 2 * MINUTE, 10)).ready
    assert second.id != first.id


async def test_a_run_beside_its_times_moves_no_time(side: Side, tenant: UUID) -> None:
    await side.schedules.put(step(tenant), replace(TERMS, paused=True))
    asked = step(tenant)
    job_id, new = await side.schedules.run(asked, "s")
    assert [job.id for job in new] == [job_id]
    assert await side.schedules.run(asked, "s") == (job_id, [])
    assert await side.ids(tenant) == [job_id]
    standing = (await side.schedules.get(tenant, "s")).standing
    assert (standing.last_job_id, standing.last_at, standing.next_at) == (job_id, AT, None)
    with pytest.raises(NotFound):
        await side.schedules.run(step(tenant), "other")


async def test_what_rests_has_no_times_and_misses_none(side: Side, tenant: UUID) -> None:
    await side.schedules.put(step(tenant), TERMS)
    assert (await side.schedules.rest(step(tenant), "s", paused=True)).standing.next_at is None
    fired = await side.schedules.fire(DUE + 5 * MINUTE, 10)
    assert (fired.ready, fired.next_at) == ([], None)
    resumed = await side.schedules.rest(step(tenant, DUE + 5 * MINUTE), "s", paused=False)
    assert (resumed.standing.next_at, resumed.standing.missed) == (DUE + 6 * MINUTE, 0)
    # What is resumed already keeps its time.
    assert (await side.schedules.rest(step(tenant, DUE), "s", paused=False)).standing == resumed.standing
    assert len((await side.schedules.fire(DUE + 6 * MINUTE, 10)).ready) == 1


async def test_a_replaced_schedule_goes_by_its_new_terms_and_keeps_its_past(side: Side, tenant: UUID) -> None:
    asked = step(tenant)
    first = await side.schedules.put(asked, TERMS)
    (job,) = (await side.schedules.fire(DUE, 10)).ready
    daily = replace(TERMS, timing=Timing("0 6 * * *", "Europe/Berlin"))
    standing = (await side.schedules.put(step(tenant, DUE), daily)).standing
    assert standing.next_at == datetime(2026, 3, 2, 5, tzinfo=UTC)
    assert (standing.last_job_id, standing.created_at, standing.updated_at) == (job.id, AT, DUE)
    assert await side.schedules.put(asked, TERMS) == first
    assert (await side.schedules.get(tenant, "s")).terms.timing == daily.timing


async def test_a_zone_that_is_gone_lets_its_schedule_rest_and_no_other(
    side: Side, own_db: Database, tenant: UUID
) -> None:
    await side.schedules.put(step(tenant), replace(TERMS, name="gone"))
    await side.schedules.put(step(tenant), TERMS)
    async with own_db.maintenance() as connection:
        await connection.execute("UPDATE schedules SET time_zone = 'Old/Zone' WHERE name = 'gone'")
    assert len((await side.schedules.fire(DUE, 10)).ready) == 1
    gone = await side.schedules.get(tenant, "gone")
    assert (gone.terms.paused, gone.standing.next_at) == (True, None)


async def test_there_is_a_bound_to_a_tenants_schedules(
    side: Side, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCHEDULES_MAX", 2)
    for name in ("a", "b", "a"):
        await side.schedules.put(step(tenant), replace(TERMS, name=name))
    with pytest.raises(ResourceExhausted):
        await side.schedules.put(step(tenant), replace(TERMS, name="c"))
    await side.schedules.put(step(uuid4()), replace(TERMS, name="c"))
    assert [s.terms.name for s in await side.schedules.list_page(tenant, "", 10)] == ["a", "b"]


async def test_a_tenants_schedules_rest_from_its_close_on(side: Side, own_db: Database, tenant: UUID) -> None:
    other = uuid4()
    for each in (tenant, other):
        await side.schedules.put(step(each), TERMS)
    await side.schedules.put(step(tenant), replace(TERMS, name="t"))
    assert (await tenancy.close(own_db, step(tenant), side.schedules.rest_all)).state == tenancy.CLOSED
    kept = await side.schedules.list_page(tenant, "", 10)
    assert [(each.terms.paused, each.standing.next_at) for each in kept] == [(True, None)] * 2
    assert [job.tenant_id for job in (await side.schedules.fire(DUE, 10)).ready] == [other]
    # Opened again, they rest on: whoever opens it resumes what is wanted.
    await tenancy.reopen(own_db, step(tenant), side.schedules.rest_all)
    assert [job.tenant_id for job in (await side.schedules.fire(DUE + MINUTE, 10)).ready] == [other]


async def test_a_schedule_that_is_put_after_the_close_is_never_due(side: Side, own_db: Database, tenant: UUID) -> None:
    """As by a server that did not know of the close yet."""
    await tenancy.close(own_db, step(tenant), side.schedules.rest_all)
    await side.schedules.put(step(tenant), TERMS)
    fired = await side.schedules.fire(DUE + 5 * MINUTE, 10)
    assert (fired.ready, fired.more, fired.next_at) == ([], False, None)
    await tenancy.reopen(own_db, step(tenant), side.schedules.rest_all)
    fired = await side.schedules.fire(DUE, 10)
    assert (len(fired.ready), fired.next_at) == (1, DUE + MINUTE)


async def test_an_opening_that_is_undone_closes_as_any_close_does(side: Side, own_db: Database, tenant: UUID) -> None:
    await tenancy.close(own_db, step(tenant), side.schedules.rest_all)
    opening = replace(step(tenant), operation=ACTION)
    assert (await tenancy.reopen(own_db, opening, side.schedules.rest_all)).state == tenancy.ACTIVE
    await side.schedules.put(step(tenant), TERMS)
    undoing = replace(opening, operation=COMPENSATION)
    assert (await tenancy.reopen(own_db, undoing, side.schedules.rest_all)).state == tenancy.CLOSED
    assert (await side.schedules.get(tenant, "s")).terms.paused
