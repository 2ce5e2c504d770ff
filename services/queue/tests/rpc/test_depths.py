"""GetDepths: what those who run the platform see of all tenants' jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, ref_of
from services.queue.tests.store.test_autovacuum import HOT

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1.queue_admin_service_pb2_grpc import QueueAdminServiceStub
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.pool import Database
from penguin_queue.operations import census as module
from penguin_queue.operations.census import Census
from penguin_queue.store.census import CensusStore, Counts, TenantDepth
from penguin_testkit.calling import TierClient

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def test_jobs_are_counted_by_kind_and_state_and_the_largest_tenants_named(
    queue: TierClient, stub: QueueServiceStub, kind: str
) -> None:
    large, small = uuid4(), uuid4()
    await queue.call(stub.EnqueueBatch, batch_request(large, kind, *[b"{}"] * 900))
    await queue.call(stub.EnqueueBatch, batch_request(small, kind, b"{}"))
    later = new_job(kind=kind)
    later.run_at.FromJsonString("2999-01-01T00:00:00Z")
    await queue.call(stub.EnqueueJobs, enqueue_request(small, later))
    leased = (await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=4))).jobs
    dead = jobs_pb.JobFailure(lease=ref_of(leased[0]), error="test.final")
    await queue.call(stub.FailJobs, jobs_pb.FailJobsRequest(failures=[dead]))
    # Of one ordering key: the second waits for the first, whether it is due or not.
    ordered = [new_job(kind=kind, ordering_key="k") for _ in range(2)]
    ordered[1].run_at.FromJsonString("2999-01-01T00:00:00Z")
    await queue.call(stub.EnqueueJobs, enqueue_request(small, *ordered))
    depth, tenants = await counted(queue, kind)
    assert (depth.queue, depth.priority) == ("default", jobs_pb.JOB_PRIORITY_NORMAL)
    assert (depth.scheduled, depth.ready, depth.leased, depth.held, depth.dead) == (1, 898, 3, 1, 1)
    assert depth.HasField("oldest_ready_at")
    assert tenants[0].tenant_id == str(large)
    assert tenants[0].waiting + tenants[0].leased >= 895


async def test_rates_tell_what_happened_lately(queue: TierClient, stub: QueueServiceStub, kind: str) -> None:
    await queue.call(stub.EnqueueBatch, batch_request(uuid4(), kind, *[b"{}"] * 60))
    leased = (await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=4))).jobs
    dead = jobs_pb.JobFailure(lease=ref_of(leased[0]), error="test.final")
    await queue.call(stub.FailJobs, jobs_pb.FailJobsRequest(failures=[dead]))
    await queue.call(stub.CompleteJobs, jobs_pb.CompleteJobsRequest(leases=map(ref_of, leased[1:])))
    await counted(queue, kind)
    reply = await queue.call(QueueAdminServiceStub(queue.channel).GetDepths, pb.GetDepthsRequest())
    (rate,) = [each for each in reply.rates if each.kind == kind]
    assert (rate.enqueued_per_second, rate.completed_per_second) == pytest.approx((60 / 30, 3 / 30))
    assert (rate.dead_per_second, rate.dead_letter_ratio) == pytest.approx((1 / 30, 1 / 4))


async def counted(queue: TierClient, kind: str) -> tuple[pb.KindDepth, list[pb.TenantDepth]]:
    """The kind's depth, once a count has been made that is younger than this call."""
    method = QueueAdminServiceStub(queue.channel).GetDepths
    first = await queue.call(method, pb.GetDepthsRequest())
    # A count is good for many times as long as it took, which on a busy machine is long.
    async with asyncio.timeout(60):
        while True:
            reply = await queue.call(method, pb.GetDepthsRequest(top_tenants=3))
            if reply.computed_at.ToNanoseconds() > first.computed_at.ToNanoseconds():
                return next(each for each in reply.kinds if each.kind == kind), list(reply.tenants)
            await asyncio.sleep(0.1)


async def test_an_open_transaction_is_seen_by_its_age_and_told_of_once(
    own_db: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CensusStore(own_db)
    # Of another role than the one that looks: it is allowed to see that.
    async with own_db.tenant(uuid4()) as connection:
        await connection.execute("SELECT pg_current_xact_id()")
        counts = await store.count(AT)
        await asyncio.sleep(0.05)
        assert (await store.count(AT)).oldest_xmin_age >= counts.oldest_xmin_age + 0.05
    old = replace(counts, oldest_xmin_age=301.0)
    slot = replace(counts, oldest_xmin_age=0.0, slot_xmins={"replica": "700"})
    census, ages = Census(store, own_db.now), list[float]()
    monkeypatch.setattr("penguin_queue.operations.census._xmin_age", SimpleNamespace(set=ages.append))

    async def measured(given: Counts, after_s: float) -> int:
        monkeypatch.setattr(census, "latest", AsyncMock(return_value=given))
        await census.measure(own_db, AT + timedelta(seconds=after_s))
        return caplog.text.count("vacuum is held back")

    assert [await measured(old, 0), await measured(old, 5), await measured(slot, 10), await measured(slot, 311)] == [
        1, 1, 1, 2,
    ]  # fmt: skip
    # Of a slot the time is known since it was seen first.
    assert ages == [301.0, 301.0, 0.0, 301.0]


def depth_of(n: int, waiting: int = 1) -> TenantDepth:
    return TenantDepth(UUID(int=n), waiting, 0)


async def test_the_largest_tenants_are_metrics_and_who_leaves_them_is_told_of_no_more(
    own_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    module._largest.enter(provider.get_meter("test"))
    census = Census(CensusStore(own_db), own_db.now)
    counts = await census.latest()

    async def told(*tenants: TenantDepth) -> dict[tuple[str, str], int]:
        monkeypatch.setattr(census, "latest", AsyncMock(return_value=replace(counts, tenants=list(tenants))))
        await census.measure(own_db, AT)
        data = reader.get_metrics_data()
        if data is None:
            return {}
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
        found: dict[tuple[str, str], int] = {}
        for point in metric.data.data_points:
            assert isinstance(point, NumberDataPoint)
            labels = point.attributes or {}
            found[str(labels["penguin.tenant_id"]), str(labels["state"])] = int(point.value)
        return found

    try:
        # More of them than are told of, and a moment later all others.
        first = await told(*(depth_of(n, 100 - n) for n in range(100)))
        assert len(first) == 2 * 10
        assert first[str(UUID(int=9)), "waiting"] == 91
        second = await told(depth_of(3, 7), *(depth_of(n) for n in range(200, 300)))
        assert {UUID(tenant).int for tenant, _ in second} == {3, *range(200, 209)}
        assert second[str(UUID(int=3)), "waiting"] == 7
        assert await told() == {}
    finally:
        module._largest.show(())
        provider.shutdown()


async def test_dead_rows_are_told_of_every_hot_table(own_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, int] = {}
    monkeypatch.setattr(
        module, "_dead_rows", SimpleNamespace(set=lambda rows, labels: told.update({labels["table"]: rows}))
    )
    await Census(CensusStore(own_db), own_db.now).measure(own_db, AT)
    assert told.keys() == HOT.keys()


def test_every_gauge_says_how_replicas_are_put_together() -> None:
    # Before and after there is somewhere to export to.
    said = [getattr(each, "_description", getattr(each, "description", None)) for each in vars(module).values()]
    descriptions = [each for each in said if isinstance(each, str)]
    assert len(descriptions) == 6
    assert all("by max, never by sum" in each for each in descriptions)
