"""What workers tell of jobs beside their end: why attempts failed, how far they have come, where the results are."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import grpc
import pytest
from services.queue.tests.rows import ref_of, seconds
from services.queue.tests.rpc.test_queues import Admin
from services.queue.tests.rpc.test_work import Worker, enqueue, state, working

from penguin.queue.v1 import queue_admin_service_pb2 as admin_pb
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def admin(queue: TierClient, kind: str) -> Admin:
    return Admin(queue, kind)


async def refused(queue: TierClient, method: Any, request: Any) -> list[str]:
    """The fields that a refusal names."""
    with pytest.raises(Refused) as refusal:
        await queue.call(method, request)
    assert refusal.value.answer.reason == "INVALID_FIELD"
    return refusal.value.answer.fields


async def test_attempts_are_listed_with_what_their_workers_said(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    (job_id,) = await enqueue(queue, stub, tenant, kind, 1)
    async with working(queue, stub, kind) as worker:
        await worker.until(1)
        lease = pb.LeaseRef(job_id=job_id, lease_token=worker.held.pop(job_id))
        failure = pb.JobFailure(lease=lease, error="smtp.550", message="no such mailbox")
        assert (await worker.say(failures=[failure])).dead == 1
    request = pb.ListJobAttemptsRequest(tenant_id=str(tenant), job_id=job_id)
    (attempt,) = (await queue.call(stub.ListJobAttempts, request)).attempts
    assert (attempt.attempt, attempt.outcome, attempt.error, attempt.message, attempt.worker_id) == (
        1, pb.ATTEMPT_OUTCOME_FAILED, "smtp.550", "no such mailbox", "test",
    )  # fmt: skip
    assert attempt.finished_at.seconds == (await state(queue, stub, tenant, job_id)).finished_at.seconds


async def test_a_place_that_is_none_is_refused(queue: TierClient, stub: QueueServiceStub, tenant: UUID) -> None:
    request = pb.ListJobAttemptsRequest(tenant_id=str(tenant), job_id=1, page_token="bm90aGluZw")
    with pytest.raises(Refused, match="INVALID_PAGE_TOKEN"):
        await queue.call(stub.ListJobAttempts, request)


async def test_progress_is_shown_as_it_is_told_by_calls_and_streams(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, admin: Admin
) -> None:
    await admin.enqueue(tenant)
    (leased,) = await admin.lease()
    told = pb.JobProgress(job_id=leased.job.id, done=3, total=10, note="page 3")
    request = pb.ExtendLeasesRequest(leases=[ref_of(leased)], lease_duration=seconds(30), progress=[told])
    await queue.call(stub.ExtendLeases, request)
    shown = (await admin.get(tenant, leased.job.id)).progress
    assert (shown.job_id, shown.done, shown.total, shown.note) == (leased.job.id, 3, 10, "page 3")
    assert shown.HasField("told_at")
    request.progress[0].job_id += 1
    assert await refused(queue, stub.ExtendLeases, request) == ["progress[0].job_id"]
    (job_id,) = await admin.enqueue(tenant)
    assert not (await admin.get(tenant, job_id)).HasField("progress")
    async with working(queue, stub, admin.kind) as worker:
        await worker.until(1)
        await worker.say(extended=worker.leases([job_id]), progress=[pb.JobProgress(job_id=job_id, done=1)])
    page = await queue.call(stub.ListJobs, pb.ListJobsRequest(tenant_id=str(tenant)))
    assert {job.id: job.progress.done for job in page.jobs} == {leased.job.id: 3, job_id: 1}


async def test_results_are_shown_of_the_jobs_they_are_of(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str, admin: Admin
) -> None:
    first, second = await enqueue(queue, stub, tenant, kind, 2)
    async with working(queue, stub, kind) as worker:
        await worker.until(2)
        result = pb.JobResult(job_id=second, result="reports/7")
        leases = worker.leases([first, second])
        assert (await worker.say(completed=leases, results=[result])).completed == 2
        assert await _stream_refused(worker, completed=leases, results=[pb.JobResult(job_id=1, result="x")])
    assert [(await state(queue, stub, tenant, n)).result for n in (first, second)] == ["", "reports/7"]
    await admin.enqueue(tenant)
    (leased,) = await admin.lease()
    request = pb.CompleteJobsRequest(leases=[ref_of(leased)], results=[pb.JobResult(job_id=1, result="x")])
    assert await refused(queue, stub.CompleteJobs, request) == ["results[0].job_id"]
    request.results[0].job_id, request.results[0].result = leased.job.id, "é" * 251
    assert await refused(queue, stub.CompleteJobs, request) == ["results[0].result"]
    request.results[0].result = "é" * 250
    await queue.call(stub.CompleteJobs, request)
    assert (await admin.get(tenant, leased.job.id)).result == "é" * 250


async def _stream_refused(worker: Worker, **words: Any) -> bool:
    try:
        await worker.say(**words)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return False


async def test_a_queue_says_how_long_and_whether_what_is_over_is_kept(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, admin: Admin
) -> None:
    usual = await admin.put()
    assert (usual.completed_retention.seconds, usual.dead_retention.seconds, usual.dead_letters) == (
        7 * 86400, 365 * 86400, admin_pb.DEAD_LETTERS_KEEP,
    )  # fmt: skip
    own = await admin.put(
        completed_retention=seconds(3600), dead_retention=seconds(86400), dead_letters=admin_pb.DEAD_LETTERS_DISCARD
    )
    assert (own.completed_retention.seconds, own.dead_retention.seconds, own.dead_letters) == (
        3600, 86400, admin_pb.DEAD_LETTERS_DISCARD,
    )  # fmt: skip
    with pytest.raises(Refused) as refusal:
        await admin.put(completed_retention=seconds(60))
    assert refusal.value.answer.fields == ["queue.completed_retention"]
    (job_id,) = await admin.enqueue(tenant)
    (leased,) = await admin.lease()
    failures = [pb.JobFailure(lease=ref_of(leased), error="test.final")]
    assert (await queue.call(stub.FailJobs, pb.FailJobsRequest(failures=failures))).dead == 1
    assert (await admin.get(tenant, job_id)).state == pb.JOB_STATE_DISCARDED
    page = await queue.call(stub.ListJobs, pb.ListJobsRequest(tenant_id=str(tenant), state=pb.JOB_STATE_DISCARDED))
    assert [job.id for job in page.jobs] == [job_id]
    stats = await queue.call(stub.GetQueueStats, pb.GetQueueStatsRequest(tenant_id=str(tenant)))
    assert [(each.state, each.count) for each in stats.counts] == [(pb.JOB_STATE_DISCARDED, 1)]
