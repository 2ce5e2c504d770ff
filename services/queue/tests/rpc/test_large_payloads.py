"""Leases of large payloads: an answer fits into a message, whatever was asked for, and no job is lost by it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from services.queue.tests.rows import batch_request, lease_request, ref_of, seconds
from services.queue.tests.rpc.test_queues import Admin

from penguin.queue.v1 import queue_admin_service_pb2 as admin_pb
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_queue.store.leases import LEASE_BYTES
from penguin_testkit.calling import TierClient

METHOD = "/penguin.queue.v1.QueueService/WorkJobs"


async def enqueued(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str, count: int, size: int
) -> set[int]:
    """Jobs with payloads of about `size` bytes."""
    payload = b'{"a":"%s"}' % (b"x" * size)
    ids: set[int] = set()
    for _ in range(count // 50):
        reply = await queue.call(stub.EnqueueBatch, batch_request(tenant, kind, *[payload] * 50))
        ids |= set(range(reply.first_job_id, reply.first_job_id + reply.count))
    return ids


async def lost_leases(queue: TierClient, stub: QueueServiceStub, tenant: UUID, ids: set[int]) -> int:
    jobs = [
        (await queue.call(stub.GetJob, pb.GetJobRequest(tenant_id=str(tenant), job_id=job_id))).job
        for job_id in sorted(ids)[::50]
    ]
    return sum(job.lost_leases for job in jobs)


async def test_a_lease_is_as_many_as_a_message_takes_and_the_others_are_ready_at_once(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    ids = await enqueued(queue, stub, tenant, kind, 200, 60_000)
    done: set[int] = set()
    async with asyncio.timeout(30):
        while done != ids:
            reply = await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=200, lease_s=600))
            assert len(reply.jobs) < 60
            done |= {leased.job.id for leased in reply.jobs}
            if reply.jobs:
                await queue.call(stub.CompleteJobs, pb.CompleteJobsRequest(leases=map(ref_of, reply.jobs)))
    assert await lost_leases(queue, stub, tenant, ids) == 0


async def test_what_a_message_does_not_take_costs_its_rate_nothing(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    await Admin(queue, kind).put(rate=admin_pb.RateLimit(jobs=100, per=Duration(seconds=1), burst=100))
    await enqueued(queue, stub, tenant, kind, 100, 60_000)
    await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=1))
    # A bucket that is new fills from then on.
    await asyncio.sleep(0.8)
    request = lease_request(kind, max_jobs=1000, lease_s=600)
    leased = [len((await queue.call(stub.LeaseJobs, request)).jobs) for _ in range(2)]
    assert leased == [-(-LEASE_BYTES // 60_008)] * 2


@pytest.mark.parametrize(("count", "size"), [(1000, 5_000), (200, 60_000)])
@pytest.mark.parametrize("waiting", [False, True])
async def test_a_stream_is_given_what_it_has_places_for_in_several_replies(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str, count: int, size: int, waiting: bool
) -> None:
    ids = set() if waiting else await enqueued(queue, stub, tenant, kind, count, size)
    token = queue.tokens.token("queue", platform=True, methods=[METHOD], scopes=["jobs.work"])
    anyhow: Any = stub
    call = anyhow.WorkJobs(metadata=(("authorization", f"Bearer {token}"),))
    try:
        start = pb.WorkStart(kinds=[kind], max_in_flight=count, worker_id="w", lease_duration=seconds(600))
        await call.write(pb.WorkJobsRequest(start=start))
        await call.read()
        if waiting:
            ids = await enqueued(queue, stub, tenant, kind, count, size)
        given: list[int] = []
        async with asyncio.timeout(30):
            while len(given) < count:
                reply = await call.read()
                assert isinstance(reply, pb.WorkJobsResponse)
                given += [job_id for lot in reply.jobs for job_id in lot.job_ids]
                assert all(len(lot.job_ids) == len(lot.payloads) == len(lot.created_at_micros) for lot in reply.jobs)
        assert set(given) == ids
        assert len(given) == count
    finally:
        call.cancel()
    assert await lost_leases(queue, stub, tenant, ids) == 0
