"""What is owed is leased to one relay at a time, shared between tenants, and never lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from penguin.tier.v1 import tier_service_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis import outbox
from penguin_chassis.faults import ResourceExhausted
from penguin_chassis.outbox import LeasedRow, Owed
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAR = NOW + timedelta(days=1)


@pytest.fixture(scope="module")
async def apart(databases: Databases) -> AsyncIterator[Database]:
    """A database that no other module writes to: leases look at all tenants."""
    urls = await databases.clone("oltp")
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=4)) as opened:
        yield opened


@pytest.fixture
async def own(apart: Database) -> Database:
    """It, with nothing owed."""
    async with apart.maintenance() as connection:
        await connection.execute("DELETE FROM outbox")
    return apart


def ordered(number: int) -> UUID:
    """Tenants as they are minted: next to each other, low in the range of all UUIDs."""
    return UUID(int=0x0190_0000_0000_7000_8000_0000_0000_0000 + number)


async def owe(
    db: Database, tenant: UUID, count: int = 1, destination: str = "queue", at: datetime = NOW, aggregate: str = ""
) -> list[UUID]:
    ids = [uuid4() for _ in range(count)]
    owed = [Owed(i, destination, "k", {"n": 1}, aggregate=aggregate) for i in ids]
    async with db.tenant(tenant) as connection:
        await outbox.append(connection, tenant, owed, at)
    return ids


async def lease(
    db: Database, *destinations: str, rows: int = 100, tenants: int = 10, at: datetime = NOW, after: UUID | None = None
) -> tuple[UUID, list[LeasedRow]]:
    return await outbox.lease(
        db, max_rows=rows, max_tenants=tenants, duration_s=30, destinations=destinations, at=at, after=after
    )


async def test_a_leased_row_is_one_relays_until_its_lease_ends(own: Database, tenant: UUID) -> None:
    ids = await owe(own, tenant, 3)
    token, rows = await lease(own)
    assert {r.id for r in rows} == set(ids)
    assert {(r.tenant_id, r.destination, r.kind, r.payload, r.attempt) for r in rows} == {
        (tenant, "queue", "k", b'{"n":1}', 1)
    }
    assert (await lease(own))[1] == []
    assert await outbox.settle(own, token, [(tenant, ids[0])], [(tenant, ids[1], 60.0, "UNAVAILABLE")], NOW) == (1, 1)
    later = NOW + timedelta(seconds=31)
    _, again = await lease(own, at=later)
    assert [(r.id, r.attempt) for r in again] == [(ids[2], 2)]
    _, failed = await lease(own, at=NOW + timedelta(seconds=61))
    assert ids[1] in {r.id for r in failed}
    assert await outbox.depth(own) == (2, NOW)


async def test_a_stale_token_settles_nothing(own: Database, tenant: UUID) -> None:
    (row,) = await owe(own, tenant)
    stale, _ = await lease(own)
    token, _ = await lease(own, at=NOW + timedelta(seconds=31))
    assert await outbox.settle(own, stale, [(tenant, row)], [], NOW) == (0, 0)
    assert await outbox.settle(own, stale, [], [(tenant, row, 0.0, "x")], NOW) == (0, 0)
    assert await outbox.settle(own, uuid4(), [(tenant, row)], [], NOW) == (0, 0)
    assert await outbox.settle(own, token, [(uuid4(), row)], [], NOW) == (0, 0)
    assert await outbox.settle(own, token, [(tenant, row)], [], NOW) == (1, 0)
    assert await outbox.settle(own, token, [(tenant, row)], [], NOW) == (0, 0)


async def test_what_is_settled_after_its_lease_but_leased_to_nobody_counts(own: Database, tenant: UUID) -> None:
    (row,) = await owe(own, tenant)
    token, _ = await lease(own)
    assert await outbox.settle(own, token, [(tenant, row)], [], NOW + timedelta(minutes=5)) == (1, 0)


async def test_a_deep_backlog_takes_no_other_tenants_part(own: Database) -> None:
    deep, shallow = ordered(1), [ordered(n) for n in range(2, 6)]
    await owe(own, deep, 500)
    for tenant in shallow:
        await owe(own, tenant, 3)
    _, rows = await lease(own, rows=50)
    counts = {t: sum(r.tenant_id == t for r in rows) for t in (deep, *shallow)}
    assert len(rows) <= 50
    assert all(counts[tenant] == 3 for tenant in shallow)
    assert counts[deep] >= 10


async def test_the_oldest_rows_of_a_tenant_come_first(own: Database, tenant: UUID) -> None:
    young = await owe(own, tenant, 5, "content")
    old = await owe(own, tenant, 5, "queue", at=NOW - timedelta(hours=1))
    assert {r.id for r in (await lease(own, rows=5))[1]} == set(old)
    assert {r.id for r in (await lease(own, rows=5))[1]} == set(young)


async def test_rows_that_are_not_due_wait(own: Database, tenant: UUID) -> None:
    async with own.tenant(tenant) as connection:
        await outbox.append(connection, tenant, [Owed(uuid4(), "queue", "k", {}, NOW + timedelta(hours=1))], NOW)
    assert (await lease(own))[1] == []
    assert len((await lease(own, at=NOW + timedelta(hours=1)))[1]) == 1


async def test_two_relays_at_once_get_different_rows(own: Database, tenant: UUID) -> None:
    await owe(own, tenant, 100)
    leases = await asyncio.gather(*(lease(own, rows=30) for _ in range(4)))
    ids = [r.id for _, rows in leases for r in rows]
    assert len(ids) == len(set(ids)) > 30


async def test_a_relay_does_not_wait_for_rows_that_another_one_holds(own: Database, tenant: UUID) -> None:
    await owe(own, tenant, 10)
    async with own.maintenance() as connection:
        await connection.execute("SELECT FROM outbox WHERE tenant_id = $1 LIMIT 4 FOR UPDATE", tenant)
        async with asyncio.timeout(2):
            assert len((await lease(own))[1]) == 6


async def test_only_the_asked_destinations_are_leased(own: Database, tenant: UUID) -> None:
    await owe(own, tenant, 2, "queue")
    content = await owe(own, tenant, 2, "content")
    assert {r.id for r in (await lease(own, "content", "notifications"))[1]} == set(content)
    assert (await lease(own, "content"))[1] == []
    assert len((await lease(own))[1]) == 2


async def test_tenants_whose_rows_nobody_can_take_use_up_nobodys_place(own: Database) -> None:
    for number in range(20):
        await owe(own, ordered(number), 2, "queue")
    last = ordered(99)
    await owe(own, last, 1, "content")
    _, rows = await lease(own, "content", tenants=5)
    assert [r.tenant_id for r in rows] == [last]


async def test_tenants_with_endless_backlogs_are_served_in_turn(own: Database) -> None:
    tenants = [ordered(n) for n in range(12)]
    for tenant in tenants:
        await owe(own, tenant, 20)
    served: list[UUID] = []
    after = None
    for _ in range(6):
        _, rows = await lease(own, rows=4, tenants=4, after=after)
        after = rows[-1].tenant_id
        served += [r.tenant_id for r in rows]
    assert {served.count(tenant) for tenant in tenants} == {2}


async def test_a_backlog_that_waits_for_another_destination_costs_little(own: Database, tenant: UUID) -> None:
    await owe(own, tenant, 20_000, "queue")
    content = await owe(own, tenant, 5, "content")
    async with own.maintenance() as connection:
        (plan,) = json.loads(
            await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {outbox.sql.lease}",
                tenant,
                NOW,
                uuid4(),
                NOW,
                100,
                ["content"],
            )
        )
        # 20,000 rows stand on many hundred pages.
        assert plan["Plan"]["Actual Rows"] == 5
        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 150
    assert {r.id for r in (await lease(own, "content"))[1]} == set(content)
    token, rows = await lease(own, "queue", rows=1000)
    assert len(rows) == 1000
    gone, _ = await outbox.settle(own, token, [(r.tenant_id, r.id) for r in rows], [], NOW)
    assert gone == 1000


async def test_what_is_owed_of_an_aggregate_goes_one_after_the_other(own: Database, tenant: UUID) -> None:
    # The second is due before the first, by the clock of who wrote it, and goes elsewhere.
    (first,) = await owe(own, tenant, aggregate="a")
    (second,) = await owe(own, tenant, destination="content", at=NOW - timedelta(hours=1), aggregate="a")
    third, fourth = await owe(own, tenant, 2, aggregate="a")
    (other,) = await owe(own, tenant, aggregate="b")
    (any_,) = await owe(own, tenant)
    (strangers,) = await owe(own, uuid4(), aggregate="a")
    assert (await lease(own, "content"))[1] == []
    token, rows = await lease(own)
    assert {row.id for row in rows} == {first, other, any_, strangers}
    # Neither while it is delivered, nor while it waits to be tried again, nor when its relay has died.
    assert (await lease(own))[1] == []
    await outbox.settle(own, token, [(row.tenant_id, row.id) for row in rows if row.id != first], [], NOW)
    await outbox.settle(own, token, [], [(tenant, first, 60.0, "UNAVAILABLE")], NOW)
    assert (await lease(own))[1] == []
    at = NOW + timedelta(minutes=2)
    for expected in (first, first, second, third, fourth):
        token, rows = await lease(own, at=at)
        assert [row.id for row in rows] == [expected]
        if expected != first or rows[0].attempt > 2:
            await outbox.settle(own, token, [(tenant, expected)], [], at)
        at += timedelta(minutes=1)
    assert await outbox.depth(own) == (0, None)


async def test_who_waits_for_the_one_before_uses_up_nobodys_place(own: Database) -> None:
    for number in range(20):
        await owe(own, ordered(number), 1, "queue", aggregate="a")
        await owe(own, ordered(number), 1, "content", aggregate="a")
    last = ordered(99)
    await owe(own, last, 1, "content")
    _, rows = await lease(own, "content", tenants=5)
    assert [r.tenant_id for r in rows] == [last]


async def test_what_a_rolled_back_write_owed_is_owed_to_nobody(own: Database, tenant: UUID) -> None:
    async def write() -> None:
        async with own.tenant(tenant) as connection:
            await outbox.append(connection, tenant, [Owed(uuid4(), "queue", "k", {})], NOW)
            raise KeyError

    with pytest.raises(KeyError):
        await write()
    assert await outbox.depth(own) == (0, None)


async def test_the_same_over_the_wire(oltp_status: TierClient, db: Database, tenant: UUID) -> None:
    ids = await owe(db, tenant, 3, "wire", at=datetime.now(UTC))
    stub = TierServiceStub(oltp_status.channel)
    request = pb.LeaseOutboxRequest(max_rows=10, max_tenants=5, destinations=["wire"])
    request.lease_duration.FromSeconds(30)
    leased = await oltp_status.call(stub.LeaseOutbox, request)
    assert {row.id for row in leased.rows} == set(map(str, ids))
    assert {(row.tenant_id, row.destination, row.attempt) for row in leased.rows} == {(str(tenant), "wire", 1)}
    settle = pb.SettleOutboxRequest(lease_token=leased.lease_token)
    settle.delivered.add(tenant_id=str(tenant), id=str(ids[0]))
    settle.delivered.add(tenant_id=str(tenant), id=str(uuid4()))
    failure = settle.failed.add(tenant_id=str(tenant), id=str(ids[1]), error="UNAVAILABLE")
    failure.retry_delay.FromSeconds(60)
    settled = await oltp_status.call(stub.SettleOutbox, settle)
    assert (settled.delivered, settled.failed, settled.stale) == (1, 1, 1)


@pytest.mark.parametrize("after", [None, UUID(int=0), ordered(1), UUID(int=2**128 - 1)])
async def test_what_is_owed_for_the_platform_itself_has_its_turn(own: Database, after: UUID | None) -> None:
    """Its id is all zeros: the first of all, and none comes before it."""
    ids = await owe(own, UUID(int=0))
    others = [await owe(own, ordered(n)) for n in range(2)]
    _, rows = await lease(own, after=after)
    assert {row.id for row in rows} == {*ids, *(id_ for each in others for id_ in each)}


async def test_what_waits_is_told_by_destination_and_so_is_that_nothing_does(own: Database, tenant: UUID) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider(metric_readers=[reader], resource=Resource({}), shutdown_on_exit=False).get_meter("test")
    gauges = outbox.Gauges(meter)

    async def told(at: datetime) -> dict[tuple[str, str], float]:
        await outbox.measure(own, at, gauges)
        found: Any = reader.get_metrics_data()
        return {
            (metric.name.removeprefix("penguin.outbox."), point.attributes["destination"]): point.value
            for metric in found.resource_metrics[0].scope_metrics[0].metrics
            for point in metric.data.data_points
        }

    await owe(own, tenant, 3, "queue", NOW - timedelta(seconds=90))
    await owe(own, uuid4(), 1, "queue", NOW - timedelta(seconds=30))
    await owe(own, uuid4(), 2, "content", NOW - timedelta(seconds=5))
    assert await told(NOW) == {
        ("rows", "queue"): 4, ("oldest_age", "queue"): 90, ("rows", "content"): 2, ("oldest_age", "content"): 5,
    }  # fmt: skip
    assert own.owed == 6
    token, rows = await lease(own, "content")
    await outbox.settle(own, token, [(row.tenant_id, row.id) for row in rows], [], NOW)
    assert await told(NOW + timedelta(seconds=1)) == {
        ("rows", "queue"): 4, ("oldest_age", "queue"): 91, ("rows", "content"): 0, ("oldest_age", "content"): 0,
    }  # fmt: skip


async def test_what_is_taken_on_counts_before_it_is_counted(
    own: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "COUNT_LIMIT", 2)
    await outbox.measure(own, NOW)

    async def take_on() -> None:
        async with own.tenant(tenant) as connection:
            await outbox.take_on(own, connection, tenant, [Owed(uuid4(), "queue", "k", {})], NOW)
            await outbox.take_on(own, connection, tenant, [], NOW)

    await take_on()
    await take_on()
    with pytest.raises(ResourceExhausted):
        await take_on()
    assert (await outbox.depth(own))[0] == 2
    own.owed = 0


async def test_since_when_a_tenant_is_owed_something_is_told_by_destination(own: Database, tenant: UUID) -> None:
    assert await outbox.oldest(own, tenant) == {}
    await owe(own, tenant, at=NOW + timedelta(hours=1))
    await owe(own, tenant, at=NOW)
    await owe(own, tenant, destination="notifications", at=NOW + timedelta(hours=2))
    await owe(own, uuid4(), destination="olap", at=NOW - timedelta(days=1))
    assert await outbox.oldest(own, tenant) == {"queue": NOW, "notifications": NOW + timedelta(hours=2)}


async def test_what_a_tenant_is_owed_is_told_while_all_its_connections_are_in_use(own: Database, tenant: UUID) -> None:
    await owe(own, tenant)
    async with contextlib.AsyncExitStack() as held:
        with contextlib.suppress(ResourceExhausted):
            while True:
                await held.enter_async_context(own.tenant(tenant))
        async with asyncio.timeout(5):
            assert await outbox.oldest(own, tenant) == {"queue": NOW}
