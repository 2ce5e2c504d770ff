"""GetDepths: what those who run the platform see of all tenants' jobs."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, ref_of

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1.queue_admin_service_pb2_grpc import QueueAdminServiceStub
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_testkit.calling import TierClient


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
    depth, tenants = await counted(queue, kind)
    assert (depth.queue, depth.priority) == ("default", jobs_pb.JOB_PRIORITY_NORMAL)
    assert (depth.scheduled, depth.ready, depth.leased, depth.dead) == (1, 897, 3, 1)
    assert depth.HasField("oldest_ready_at")
    assert tenants[0].tenant_id == str(large)
    assert tenants[0].waiting + tenants[0].leased >= 895


async def counted(queue: TierClient, kind: str) -> tuple[pb.KindDepth, list[pb.TenantDepth]]:
    """The kind's depth, once a count has been made that is younger than this call."""
    method = QueueAdminServiceStub(queue.channel).GetDepths
    first = await queue.call(method, pb.GetDepthsRequest())
    async with asyncio.timeout(20):
        while True:
            reply = await queue.call(method, pb.GetDepthsRequest(top_tenants=3))
            if reply.computed_at.ToNanoseconds() > first.computed_at.ToNanoseconds():
                return next(each for each in reply.kinds if each.kind == kind), list(reply.tenants)
            await asyncio.sleep(0.1)
