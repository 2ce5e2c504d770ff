"""QueueService as its clients see it."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, ref_of, seconds

from penguin.common.v1 import errors_pb2
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_testkit.calling import Refused, TierClient


class Side:
    """Producer and worker of one test's own tenant and kind."""

    def __init__(self, queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str) -> None:
        self.queue, self.stub, self.tenant, self.kind = queue, stub, tenant, kind

    async def enqueue(self, count: int = 1, **fields: object) -> list[int]:
        jobs = [new_job(kind=self.kind, **fields) for _ in range(count)]
        reply = await self.queue.call(self.stub.EnqueueJobs, enqueue_request(self.tenant, *jobs))
        return [result.job_id for result in reply.results]

    async def lease(self, max_jobs: int = 10, wait_s: float = 5) -> list[pb.LeasedJob]:
        request = lease_request(self.kind, max_jobs=max_jobs, wait_s=wait_s)
        return list((await self.queue.call(self.stub.LeaseJobs, request)).jobs)

    async def get(self, job_id: int) -> pb.Job:
        request = pb.GetJobRequest(tenant_id=str(self.tenant), job_id=job_id)
        reply: pb.GetJobResponse = await self.queue.call(self.stub.GetJob, request)
        return reply.job

    async def complete(self, *leases: pb.LeaseRef) -> pb.CompleteJobsResponse:
        reply: pb.CompleteJobsResponse = await self.queue.call(
            self.stub.CompleteJobs, pb.CompleteJobsRequest(leases=leases)
        )
        return reply

    async def fail(self, lease: pb.LeaseRef, **fields: object) -> pb.FailJobsResponse:
        failure = pb.JobFailure(lease=lease, error="smtp.temporary", **fields)  # type: ignore[arg-type]
        reply: pb.FailJobsResponse = await self.queue.call(self.stub.FailJobs, pb.FailJobsRequest(failures=[failure]))
        return reply

    async def redrive(self, request_id: str, *ids: int) -> pb.RedriveJobsResponse:
        request = pb.RedriveJobsRequest(tenant_id=str(self.tenant), request_id=request_id, job_ids=ids)
        reply: pb.RedriveJobsResponse = await self.queue.call(self.stub.RedriveJobs, request)
        return reply


@pytest.fixture
def side(queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str) -> Side:
    return Side(queue, stub, tenant, kind)


def stale(lease: pb.LeaseRef) -> pb.LeaseRef:
    return pb.LeaseRef(job_id=lease.job_id, lease_token=lease.lease_token % 1000 + 1)


async def test_a_job_comes_as_it_was_given(side: Side) -> None:
    (job_id,) = await side.enqueue(priority=pb.JOB_PRIORITY_HIGH, payload=b'{"email_id":"e"}', traceparent="00-a-b-01")
    (leased,) = await side.lease()
    job = leased.job
    assert (job.id, job.kind, job.payload, job.traceparent) == (job_id, side.kind, b'{"email_id":"e"}', "00-a-b-01")
    assert (job.priority, job.state, job.max_attempts) == (pb.JOB_PRIORITY_HIGH, pb.JOB_STATE_LEASED, 10)
    assert job.leased_until.ToDatetime() > job.created_at.ToDatetime()
    assert await side.lease(wait_s=0) == []
    assert (await side.complete(ref_of(leased))).completed == 1
    done = await side.get(job_id)
    assert done.state == pb.JOB_STATE_COMPLETED
    assert done.HasField("finished_at")


async def test_a_repeat_is_the_same_job_and_another_body_is_refused_alone(
    queue: TierClient, stub: QueueServiceStub, side: Side
) -> None:
    job = new_job(kind=side.kind)
    first = await queue.call(stub.EnqueueJobs, enqueue_request(side.tenant, job))
    changed = pb.NewJob()
    changed.CopyFrom(job)
    changed.payload = b'{"n":2}'
    replayed = await queue.call(stub.EnqueueJobs, enqueue_request(side.tenant, job))
    assert replayed == first
    mixed = await queue.call(stub.EnqueueJobs, enqueue_request(side.tenant, changed, new_job(kind=side.kind)))
    assert mixed.results[0].error.reason == errors_pb2.ERROR_REASON_REQUEST_ID_REUSED
    assert mixed.results[1].job_id
    assert len(await side.lease()) == 2


async def test_a_payload_that_is_no_object_is_refused_alone(
    queue: TierClient, stub: QueueServiceStub, side: Side
) -> None:
    jobs = [new_job(kind=side.kind), new_job(kind=side.kind, payload=b"[]"), new_job(kind=side.kind)]
    results = (await queue.call(stub.EnqueueJobs, enqueue_request(side.tenant, *jobs))).results
    assert [bool(r.job_id) for r in results] == [True, False, True]
    error = results[1].error
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "payload")
    assert error.reason == errors_pb2.ERROR_REASON_INVALID_FIELD


async def test_bad_fields_are_each_named(queue: TierClient, stub: QueueServiceStub, tenant: UUID) -> None:
    bad = new_job(kind="Not A Kind", payload=b"x" * 65_537, max_attempts=101)
    with pytest.raises(Refused) as refused:
        await queue.call(stub.EnqueueJobs, enqueue_request(tenant, bad))
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert set(answer.fields) == {"jobs[0].kind", "jobs[0].payload", "jobs[0].max_attempts"}
    lease = pb.LeaseRef(job_id=-1, lease_token=1)
    for method, request, field in (
        (stub.LeaseJobs, lease_request(max_jobs=0), "max_jobs"),
        (stub.ExtendLeases, pb.ExtendLeasesRequest(leases=[lease], lease_duration=seconds(9)), "leases[0].job_id"),
        (stub.CompleteJobs, pb.CompleteJobsRequest(leases=[lease]), "leases[0].job_id"),
        (stub.FailJobs, pb.FailJobsRequest(failures=[pb.JobFailure(error="x")]), "failures[0].lease"),
        (stub.SnoozeJobs, pb.SnoozeJobsRequest(snoozes=[pb.JobSnooze(delay=seconds(1))]), "snoozes[0].lease"),
        (stub.ReleaseJobs, pb.ReleaseJobsRequest(), "leases"),
        (stub.GetJob, pb.GetJobRequest(tenant_id=str(tenant), job_id=0), "job_id"),
        (stub.ListJobs, pb.ListJobsRequest(tenant_id=str(tenant), page_size=-1), "page_size"),
        (stub.RedriveJobs, pb.RedriveJobsRequest(tenant_id=str(tenant), request_id=str(uuid4())), "job_ids"),
        (stub.GetQueueStats, pb.GetQueueStatsRequest(tenant_id="x"), "tenant_id"),
    ):
        with pytest.raises(Refused) as refused:
            await queue.call(method, request, tenant=tenant)
        assert refused.value.answer.code is grpc.StatusCode.INVALID_ARGUMENT, field
        assert refused.value.answer.fields == [field]


async def test_nobody_without_the_right_token(queue: TierClient, stub: QueueServiceStub, side: Side) -> None:
    (job_id,) = await side.enqueue()
    mine, lease = str(side.tenant), pb.LeaseRef(job_id=job_id, lease_token=1)
    of_tenants = (
        (stub.EnqueueJobs, enqueue_request(mine, new_job(kind=side.kind))),
        (stub.EnqueueBatch, batch_request(mine, side.kind)),
        (stub.GetJob, pb.GetJobRequest(tenant_id=mine, job_id=job_id)),
        (stub.ListJobs, pb.ListJobsRequest(tenant_id=mine)),
        (stub.RedriveJobs, pb.RedriveJobsRequest(tenant_id=mine, request_id=str(uuid4()), job_ids=[job_id])),
        (stub.GetQueueStats, pb.GetQueueStatsRequest(tenant_id=mine)),
    )
    of_workers = (
        (stub.LeaseJobs, lease_request(side.kind)),
        (stub.ExtendLeases, pb.ExtendLeasesRequest(leases=[lease], lease_duration=seconds(9))),
        (stub.CompleteJobs, pb.CompleteJobsRequest(leases=[lease])),
        (stub.FailJobs, pb.FailJobsRequest(failures=[pb.JobFailure(lease=lease, error="x")])),
        (stub.SnoozeJobs, pb.SnoozeJobsRequest(snoozes=[pb.JobSnooze(lease=lease, delay=seconds(1))])),
        (stub.ReleaseJobs, pb.ReleaseJobsRequest(leases=[lease])),
    )
    for method, request in (*of_tenants, *of_workers):
        with pytest.raises(Refused) as refused:
            await queue.call(method, request, anonymous=True)
        assert refused.value.answer.code is grpc.StatusCode.UNAUTHENTICATED
    stranger = uuid4()
    for method, request in of_tenants:
        with pytest.raises(Refused) as refused:
            await queue.call(method, request, tenant=stranger)
        assert refused.value.answer.reason == "TENANT_MISMATCH"
    tenants_own = queue.tokens.token("queue", tenant=side.tenant, scopes=["jobs.work"])
    for method, request in of_workers:
        with pytest.raises(Refused) as refused:
            await queue.call(method, request, token=tenants_own)
        assert refused.value.answer.reason == "PLATFORM_ONLY"


async def test_another_tenant_finds_nothing(queue: TierClient, stub: QueueServiceStub, side: Side) -> None:
    (job_id,) = await side.enqueue()
    stranger = Side(queue, stub, uuid4(), side.kind)
    with pytest.raises(Refused) as refused:
        await stranger.get(job_id)
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
    page = await queue.call(stub.ListJobs, pb.ListJobsRequest(tenant_id=str(stranger.tenant)))
    assert list(page.jobs) == []
    assert list((await stranger.redrive(str(uuid4()), job_id)).skipped_job_ids) == [job_id]


async def test_a_waiting_lease_is_told_of_a_new_job_and_of_one_that_falls_due(side: Side) -> None:
    waiting = asyncio.create_task(side.lease(wait_s=8))
    await asyncio.sleep(0.7)  # past the first polls: these have slowed down
    started = time.monotonic()
    await side.enqueue()
    assert len(await waiting) == 1
    assert time.monotonic() - started < 3
    soon = Timestamp()
    soon.FromMicroseconds(time.time_ns() // 1000 + 700_000)
    await side.enqueue(run_at=soon)
    assert await side.lease(wait_s=0) == []
    (leased,) = await side.lease(wait_s=8)
    assert time.time_ns() >= soon.ToNanoseconds()
    assert leased.job.run_at == soon


async def test_an_empty_queue_answers_when_the_wait_is_over(side: Side) -> None:
    started = time.monotonic()
    assert await side.lease(wait_s=0.4) == []
    assert 0.35 < time.monotonic() - started < 3


async def test_a_stale_token_moves_nothing(queue: TierClient, stub: QueueServiceStub, side: Side) -> None:
    (job_id,) = await side.enqueue()
    (leased,) = await side.lease()
    old = stale(ref_of(leased))
    extended = await queue.call(stub.ExtendLeases, pb.ExtendLeasesRequest(leases=[old], lease_duration=seconds(60)))
    snoozed = await queue.call(
        stub.SnoozeJobs, pb.SnoozeJobsRequest(snoozes=[pb.JobSnooze(lease=old, delay=seconds(1))])
    )
    released = await queue.call(stub.ReleaseJobs, pb.ReleaseJobsRequest(leases=[old]))
    completed, failed = await side.complete(old), await side.fail(old, retryable=True)
    for reply in (extended, snoozed, released, completed, failed):
        assert list(reply.lost_job_ids) == [job_id]
    assert (completed.completed, failed.retried, failed.dead, snoozed.snoozed, released.released) == (0, 0, 0, 0, 0)
    assert (await side.get(job_id)).state == pb.JOB_STATE_LEASED


async def test_a_lease_is_kept_in_hand(queue: TierClient, stub: QueueServiceStub, side: Side) -> None:
    (job_id,) = await side.enqueue()
    (leased,) = await side.lease()
    request = pb.ExtendLeasesRequest(leases=[ref_of(leased)], lease_duration=seconds(600))
    reply = await queue.call(stub.ExtendLeases, request)
    assert list(reply.lost_job_ids) == []
    assert (await side.get(job_id)).leased_until == reply.leased_until
    assert reply.leased_until.seconds > leased.job.leased_until.seconds + 500


async def test_completing_twice_is_completing_once(side: Side) -> None:
    await side.enqueue(3)
    leases = [ref_of(leased) for leased in await side.lease()]
    for _ in range(2):
        reply = await side.complete(*leases)
        assert (reply.completed, list(reply.lost_job_ids)) == (3, [])
    assert list((await side.complete(stale(leases[0]), leases[1])).lost_job_ids) == [leases[0].job_id]


async def test_an_expired_lease_is_found_with_no_lease_call_coming(
    queue: TierClient, stub: QueueServiceStub, side: Side
) -> None:
    (job_id,) = await side.enqueue()
    request = lease_request(side.kind, lease_s=1)
    (first,) = (await queue.call(stub.LeaseJobs, request)).jobs
    for _ in range(160):
        if (await side.get(job_id)).state == pb.JOB_STATE_READY:
            break
        await asyncio.sleep(0.05)
    (second,) = await side.lease()
    assert second.job.lost_leases == 1
    assert list((await side.complete(ref_of(first))).lost_job_ids) == [job_id]
    assert (await side.complete(ref_of(second))).completed == 1


async def test_failures_retry_then_die_and_are_redriven(side: Side) -> None:
    (job_id,) = await side.enqueue(max_attempts=2)
    (leased,) = await side.lease()
    assert (await side.fail(ref_of(leased), retryable=True, retry_delay=seconds(0))).retried == 1
    (leased,) = await side.lease()
    assert (leased.job.attempts, leased.job.last_error) == (1, "smtp.temporary")
    assert (await side.fail(ref_of(leased), retryable=True)).dead == 1
    dead = await side.get(job_id)
    assert (dead.state, dead.attempts, dead.last_error) == (pb.JOB_STATE_DEAD, 2, "smtp.temporary")
    request_id, unknown = str(uuid4()), 2**62
    for _ in range(2):
        reply = await side.redrive(request_id, job_id, unknown)
        assert (reply.redriven, list(reply.skipped_job_ids)) == (1, [unknown])
    with pytest.raises(Refused) as refused:
        await side.redrive(request_id, job_id)
    assert refused.value.answer.reason == "REQUEST_ID_REUSED"
    (leased,) = await side.lease()
    assert (leased.job.id, leased.job.attempts) == (job_id, 0)


async def test_a_failure_that_no_retry_mends_is_final(side: Side) -> None:
    (job_id,) = await side.enqueue()
    (leased,) = await side.lease()
    assert (await side.fail(ref_of(leased), retryable=False)).dead == 1
    assert (await side.get(job_id)).state == pb.JOB_STATE_DEAD


async def test_a_snooze_burns_no_attempt(queue: TierClient, stub: QueueServiceStub, side: Side) -> None:
    (job_id,) = await side.enqueue()
    (leased,) = await side.lease()
    snooze = pb.JobSnooze(lease=ref_of(leased), delay=seconds(3600), reason="content.down")
    assert (await queue.call(stub.SnoozeJobs, pb.SnoozeJobsRequest(snoozes=[snooze]))).snoozed == 1
    job = await side.get(job_id)
    assert (job.state, job.attempts, job.snoozes) == (pb.JOB_STATE_READY, 0, 1)
    assert job.last_error == "content.down"
    assert await side.lease(wait_s=0) == []


async def test_what_is_released_is_ready_at_once_as_if_nobody_had_had_it(
    queue: TierClient, stub: QueueServiceStub, side: Side
) -> None:
    first, second = await side.enqueue(2)
    refs = [ref_of(each) for each in await side.lease(max_jobs=2)]
    assert [ref.job_id for ref in refs] == [first, second]
    await side.complete(refs[1])
    reply = await queue.call(stub.ReleaseJobs, pb.ReleaseJobsRequest(leases=refs))
    assert (reply.released, reply.cancelled, list(reply.lost_job_ids)) == (1, 0, [second])
    job = await side.get(first)
    assert (job.state, job.attempts, job.snoozes, job.lost_leases, job.last_error) == (
        pb.JOB_STATE_READY, 0, 0, 0, "",
    )  # fmt: skip
    # Whoever had it has it no more, and the next one does.
    assert list((await queue.call(stub.ReleaseJobs, pb.ReleaseJobsRequest(leases=refs[:1]))).lost_job_ids) == [first]
    (again,) = await side.lease()
    assert (again.job.id, again.lease_token != refs[0].lease_token) == (first, True)


async def test_pages_run_newest_first_through_every_state(
    queue: TierClient, stub: QueueServiceStub, side: Side
) -> None:
    ids = await side.enqueue(5)
    leased = await side.lease(max_jobs=2)
    await side.complete(ref_of(leased[0]))
    await side.fail(ref_of(leased[1]), retryable=False)
    seen: list[int] = []
    token = ""
    for _ in range(3):
        request = pb.ListJobsRequest(tenant_id=str(side.tenant), page_size=2, page_token=token)
        page = await queue.call(stub.ListJobs, request)
        seen += [job.id for job in page.jobs]
        token = page.next_page_token or token
    assert seen == sorted(ids, reverse=True)
    for state, count in ((pb.JOB_STATE_READY, 3), (pb.JOB_STATE_COMPLETED, 1), (pb.JOB_STATE_DEAD, 1)):
        request = pb.ListJobsRequest(tenant_id=str(side.tenant), state=state, kind=side.kind)
        assert [job.state for job in (await queue.call(stub.ListJobs, request)).jobs] == [state] * count
    with pytest.raises(Refused) as refused:
        await queue.call(
            stub.ListJobs, pb.ListJobsRequest(tenant_id=str(side.tenant), page_token=token, kind=side.kind)
        )
    assert refused.value.answer.reason == "INVALID_PAGE_TOKEN"


async def test_statistics_count_by_state_and_priority(queue: TierClient, stub: QueueServiceStub, side: Side) -> None:
    await side.enqueue(3, priority=pb.JOB_PRIORITY_LOW)
    await side.enqueue(1, priority=pb.JOB_PRIORITY_HIGH)
    (leased,) = await side.lease(max_jobs=1)
    assert leased.job.priority == pb.JOB_PRIORITY_HIGH
    reply = await queue.call(stub.GetQueueStats, pb.GetQueueStatsRequest(tenant_id=str(side.tenant)))
    assert reply.HasField("computed_at")
    assert reply.HasField("history_computed_at")
    counts = {(c.state, c.priority): c.count for c in reply.counts}
    assert counts == {
        (pb.JOB_STATE_READY, pb.JOB_PRIORITY_LOW): 3,
        (pb.JOB_STATE_LEASED, pb.JOB_PRIORITY_HIGH): 1,
    }
    assert reply.HasField("oldest_due_at")
    empty = await queue.call(stub.GetQueueStats, pb.GetQueueStatsRequest(tenant_id=str(uuid4())))
    assert (list(empty.counts), empty.HasField("oldest_due_at")) == ([], False)
