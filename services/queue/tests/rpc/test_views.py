"""What a tenant is shown of its jobs: their payloads only where it asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import grpc
import pytest
from services.queue.tests.rows import batch_request, lease_request, ref_of

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_testkit.calling import Refused, TierClient


async def enqueue(queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str, *payloads: bytes) -> list[int]:
    reply = await queue.call(stub.EnqueueBatch, batch_request(tenant, kind, *payloads))
    return list(range(reply.first_job_id, reply.first_job_id + reply.count))


async def payloads(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, ids: Sequence[int], token: str | None = None
) -> pb.GetJobPayloadsResponse:
    request = pb.GetJobPayloadsRequest(tenant_id=str(tenant), job_ids=ids)
    reply: pb.GetJobPayloadsResponse = await queue.call(stub.GetJobPayloads, request, token=token)
    return reply


async def test_jobs_are_shown_without_payloads_and_payloads_by_themselves_wherever_the_job_stands(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    first, *others = await enqueue(queue, stub, tenant, kind, *(b'{"n":%d}' % n for n in range(4)))
    leased = (await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=3))).jobs
    assert all(each.job.payload for each in leased)
    done, dead, _ = map(ref_of, leased)
    await queue.call(stub.CompleteJobs, pb.CompleteJobsRequest(leases=[done]))
    await queue.call(stub.FailJobs, pb.FailJobsRequest(failures=[pb.JobFailure(lease=dead, error="test.x")]))
    job = (await queue.call(stub.GetJob, pb.GetJobRequest(tenant_id=str(tenant), job_id=first))).job
    page = await queue.call(stub.ListJobs, pb.ListJobsRequest(tenant_id=str(tenant)))
    assert len(page.jobs) == 4
    assert not any(each.payload for each in (job, *page.jobs))
    reply = await payloads(queue, stub, tenant, [2**62, *others, first])
    assert [(each.job_id, each.payload) for each in reply.payloads] == [
        (job_id, b'{"n":%d}' % n) for n, job_id in enumerate([first, *others])
    ]
    assert (list(reply.missing_ids), list(reply.deferred_ids)) == ([2**62], [])


async def test_payloads_come_as_far_as_a_reply_has_room(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    large = b'{"x":"' + b"x" * 60_000 + b'"}'
    ids = [n for _ in range(2) for n in await enqueue(queue, stub, tenant, kind, *[large] * 25)]
    asked, seen = ids, []
    while asked:
        reply = await payloads(queue, stub, tenant, asked)
        assert 0 < reply.ByteSize() < 3 * 1024 * 1024
        seen += [each.job_id for each in reply.payloads]
        asked = list(reply.deferred_ids)
    assert seen == ids


async def test_payloads_need_their_own_scope_and_are_no_other_tenants(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    (job_id,) = await enqueue(queue, stub, tenant, kind, b"{}")
    reader = queue.tokens.token("queue", tenant=tenant, scopes=["jobs.read", "jobs.write"])
    with pytest.raises(Refused) as refused:
        await payloads(queue, stub, tenant, [job_id], token=reader)
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    reply = await payloads(queue, stub, uuid4(), [job_id])
    assert (list(reply.payloads), list(reply.missing_ids)) == ([], [job_id])
