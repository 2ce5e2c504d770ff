"""A tenant's say in its jobs, as its clients have it: cancelling, redriving, purging, reordering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from services.queue.tests.rows import batch_request, lease_request, ref_of, seconds
from services.queue.tests.rpc.test_work import working

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis import subjects
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient
from penguin_testkit.holds import put_hold, release_hold, subject

COMPLETED, CANCELLED = pb.JOB_STATE_COMPLETED, pb.JOB_STATE_CANCELLED


class Owner:
    """A tenant of one test alone, and a worker of its kind."""

    def __init__(self, queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str) -> None:
        self.queue, self.stub, self.tenant, self.kind = queue, stub, tenant, kind

    async def enqueue(self, count: int = 1, **fields: object) -> list[int]:
        payloads = [b'{"n":%d}' % n for n in range(count)]
        request = batch_request(self.tenant, self.kind, *payloads, **fields)
        reply = await self.queue.call(self.stub.EnqueueBatch, request)
        return list(range(reply.first_job_id, reply.first_job_id + reply.count))

    async def lease(self, max_jobs: int = 1000, lease_s: float = 30) -> list[pb.LeaseRef]:
        request = lease_request(self.kind, max_jobs=max_jobs, lease_s=lease_s)
        return [ref_of(each) for each in (await self.queue.call(self.stub.LeaseJobs, request)).jobs]

    async def get(self, job_id: int) -> pb.Job:
        request = pb.GetJobRequest(tenant_id=str(self.tenant), job_id=job_id)
        reply: pb.GetJobResponse = await self.queue.call(self.stub.GetJob, request)
        return reply.job

    async def cancel(self, *ids: int, request_id: str = "") -> tuple[list[int], list[int], list[int]]:
        request = pb.CancelJobsRequest(tenant_id=str(self.tenant), request_id=request_id or str(uuid4()), job_ids=ids)
        reply = await self.queue.call(self.stub.CancelJobs, request)
        return list(reply.cancelled_job_ids), list(reply.cancelling_job_ids), list(reply.skipped_job_ids)

    async def fail(self, *leases: pb.LeaseRef, retryable: bool = False) -> pb.FailJobsResponse:
        failures = [pb.JobFailure(lease=lease, error="smtp.temporary", retryable=retryable) for lease in leases]
        reply: pb.FailJobsResponse = await self.queue.call(self.stub.FailJobs, pb.FailJobsRequest(failures=failures))
        return reply

    async def bury(self, count: int, error: str = "smtp.rejected") -> list[int]:
        """Dead letters; their ids, in order."""
        await self.enqueue(count)
        leases = await self.lease()
        failures = [pb.JobFailure(lease=lease, error=error) for lease in leases]
        await self.queue.call(self.stub.FailJobs, pb.FailJobsRequest(failures=failures))
        return sorted(lease.job_id for lease in leases)

    async def redrive(self, **fields: Any) -> pb.RedriveJobsResponse:
        request = pb.RedriveJobsRequest(**{"tenant_id": str(self.tenant), "request_id": str(uuid4())} | fields)
        reply: pb.RedriveJobsResponse = await self.queue.call(self.stub.RedriveJobs, request)
        return reply

    async def purge(self, state: Any, **fields: Any) -> pb.PurgeJobsResponse:
        request_id, max_jobs, dry_run = (fields.pop(name, None) for name in ("request_id", "max_jobs", "dry_run"))
        request = pb.PurgeJobsRequest(
            tenant_id=str(self.tenant),
            request_id=request_id or str(uuid4()),
            filter=pb.PurgeFilter(state=state, **fields),
            max_jobs=max_jobs,
            dry_run=dry_run,
        )
        reply: pb.PurgeJobsResponse = await self.queue.call(self.stub.PurgeJobs, request)
        return reply

    async def set_priority(self, *ids: int, **fields: Any) -> pb.SetJobPriorityResponse:
        usual: dict[str, Any] = {"request_id": str(uuid4()), "priority": pb.JOB_PRIORITY_HIGH}
        request = pb.SetJobPriorityRequest(tenant_id=str(self.tenant), job_ids=ids, **(usual | fields))
        reply: pb.SetJobPriorityResponse = await self.queue.call(self.stub.SetJobPriority, request)
        return reply

    async def marked(self, **lease: float) -> pb.LeaseRef:
        """A job in a worker's hands whose cancellation is wished."""
        (job_id,) = await self.enqueue()
        (ref,) = await self.lease(**lease)  # type: ignore[arg-type]
        assert await self.cancel(job_id) == ([], [job_id], [])
        return ref


@pytest.fixture
def owner(queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str) -> Owner:
    return Owner(queue, stub, tenant, kind)


async def test_what_waits_ends_at_once_and_what_is_over_is_left_alone(owner: Owner) -> None:
    later = pb.NewJob().run_at
    later.FromJsonString("2100-01-01T00:00:00Z")
    done, dead, leased = await owner.enqueue(3)
    for ref in (leases := await owner.lease()):
        if ref.job_id == done:
            await owner.queue.call(owner.stub.CompleteJobs, pb.CompleteJobsRequest(leases=[ref]))
        elif ref.job_id == dead:
            await owner.fail(ref)
    (ready,), (scheduled,), unknown = await owner.enqueue(), await owner.enqueue(run_at=later), 2**62
    assert len(leases) == 3
    assert await owner.cancel(unknown, scheduled, leased, ready, dead, done) == (
        [ready, scheduled], [leased], [done, dead, unknown],
    )  # fmt: skip
    for job_id in (ready, scheduled):
        job = await owner.get(job_id)
        assert (job.state, job.HasField("finished_at"), job.cancel_wanted) == (CANCELLED, True, False)
    assert (await owner.get(leased)).cancel_wanted
    assert await owner.lease() == []
    request = pb.ListJobsRequest(tenant_id=str(owner.tenant), state=CANCELLED)
    assert [job.id for job in (await owner.queue.call(owner.stub.ListJobs, request)).jobs] == [scheduled, ready]
    request.state = COMPLETED
    assert [job.id for job in (await owner.queue.call(owner.stub.ListJobs, request)).jobs] == [done]
    stats = await owner.queue.call(owner.stub.GetQueueStats, pb.GetQueueStatsRequest(tenant_id=str(owner.tenant)))
    counts = {each.state: each.count for each in stats.counts}
    assert counts == {pb.JOB_STATE_LEASED: 1, COMPLETED: 1, pb.JOB_STATE_DEAD: 1, CANCELLED: 2}


async def test_the_worker_is_told_and_may_still_complete(owner: Owner) -> None:
    ref = await owner.marked()
    request = pb.ExtendLeasesRequest(leases=[ref], lease_duration=seconds(60))
    reply = await owner.queue.call(owner.stub.ExtendLeases, request)
    assert (list(reply.lost_job_ids), list(reply.cancelled_job_ids)) == ([], [ref.job_id])
    done = await owner.queue.call(owner.stub.CompleteJobs, pb.CompleteJobsRequest(leases=[ref]))
    assert (done.completed, (await owner.get(ref.job_id)).state) == (1, COMPLETED)
    assert await owner.cancel(ref.job_id) == ([], [], [ref.job_id])


@pytest.mark.parametrize("retryable", [False, True])
async def test_a_marked_job_that_fails_is_cancelled(owner: Owner, retryable: bool) -> None:
    ref = await owner.marked()
    reply = await owner.fail(ref, retryable=retryable)
    assert (reply.cancelled, reply.retried, reply.dead, list(reply.lost_job_ids)) == (1, 0, 0, [])
    job = await owner.get(ref.job_id)
    assert (job.state, job.attempts, job.last_error) == (CANCELLED, 1, "smtp.temporary")
    assert list((await owner.fail(ref)).lost_job_ids) == [ref.job_id]
    late = await owner.queue.call(owner.stub.CompleteJobs, pb.CompleteJobsRequest(leases=[ref]))
    assert list(late.lost_job_ids) == [ref.job_id]


async def test_a_marked_job_that_is_put_off_is_cancelled(owner: Owner) -> None:
    ref = await owner.marked()
    request = pb.SnoozeJobsRequest(snoozes=[pb.JobSnooze(lease=ref, delay=seconds(0), reason="content.down")])
    reply = await owner.queue.call(owner.stub.SnoozeJobs, request)
    assert (reply.cancelled, reply.snoozed, list(reply.lost_job_ids)) == (1, 0, [])
    job = await owner.get(ref.job_id)
    assert (job.state, job.attempts, job.last_error) == (CANCELLED, 0, "content.down")


async def test_a_marked_job_that_is_released_is_cancelled(owner: Owner) -> None:
    ref = await owner.marked()
    reply = await owner.queue.call(owner.stub.ReleaseJobs, pb.ReleaseJobsRequest(leases=[ref]))
    assert (reply.cancelled, reply.released, list(reply.lost_job_ids)) == (1, 0, [])
    assert (await owner.get(ref.job_id)).state == CANCELLED


async def test_a_marked_job_whose_lease_runs_out_is_cancelled(owner: Owner) -> None:
    ref = await owner.marked(lease_s=1)
    for _ in range(160):
        if (job := await owner.get(ref.job_id)).state != pb.JOB_STATE_LEASED:
            break
        await asyncio.sleep(0.05)
    assert (job.state, job.lost_leases) == (CANCELLED, 1)
    assert await owner.lease() == []


async def test_a_stream_is_told_with_its_extensions_and_gives_marked_jobs_back_for_good(owner: Owner) -> None:
    ids = await owner.enqueue(4)
    async with working(owner.queue, owner.stub, owner.kind, places=4) as worker:
        await worker.until(4)
        assert await owner.cancel(*ids[:3]) == ([], ids[:3], [])
        answer = await worker.say(extended=worker.leases(ids))
        assert (list(answer.cancelled_job_ids), list(answer.lost_job_ids)) == (ids[:3], [])
        refs = [pb.LeaseRef(job_id=job_id, lease_token=worker.held[job_id]) for job_id in ids]
        answer = await worker.say(
            released=worker.leases(ids[:1]),
            failures=[pb.JobFailure(lease=refs[1], error="test.x", retryable=True)],
            snoozes=[pb.JobSnooze(lease=refs[2], delay=seconds(0))],
        )
        assert (answer.cancelled, list(answer.lost_job_ids)) == (3, [])
        assert (answer.released, answer.retried, answer.snoozed) == (0, 0, 0)
    assert {(await owner.get(job_id)).state for job_id in ids[:3]} == {CANCELLED}


async def test_a_cancellation_is_carried_out_once(owner: Owner) -> None:
    ids, request_id = await owner.enqueue(2), str(uuid4())
    first = await owner.cancel(*ids, request_id=request_id)
    assert await owner.cancel(*ids, request_id=request_id) == first == (ids, [], [])
    with pytest.raises(Refused) as refused:
        await owner.cancel(ids[0], request_id=request_id)
    assert refused.value.answer.reason == "REQUEST_ID_REUSED"
    assert await owner.cancel(*ids) == ([], [], ids)


async def test_nobody_cancels_anothers_jobs(owner: Owner) -> None:
    (job_id,) = await owner.enqueue()
    stranger = Owner(owner.queue, owner.stub, uuid4(), owner.kind)
    assert await stranger.cancel(job_id) == ([], [], [job_id])
    assert (await owner.get(job_id)).state == pb.JOB_STATE_READY
    request = pb.CancelJobsRequest(tenant_id=str(owner.tenant), request_id=str(uuid4()), job_ids=[job_id])
    token = owner.queue.tokens.token("queue", tenant=owner.tenant, scopes=["jobs.read"])
    with pytest.raises(Refused) as refused:
        await owner.queue.call(owner.stub.CancelJobs, request, token=token)
    assert refused.value.answer.reason == "SCOPE_MISSING"
    for bad, field in (([], "job_ids"), ([job_id] * 1001, "job_ids"), ([0], "job_ids[0]")):
        request = pb.CancelJobsRequest(tenant_id=str(owner.tenant), request_id=str(uuid4()), job_ids=bad)
        with pytest.raises(Refused) as refused:
            await owner.queue.call(owner.stub.CancelJobs, request)
        assert (refused.value.answer.code, refused.value.answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, list[str]]:
    """How a call is refused: status, fields."""
    with pytest.raises(Refused) as refused:
        await call()
    return refused.value.answer.code, list(refused.value.answer.fields)


async def test_dead_letters_are_redriven_by_filter_so_many_at_a_time(owner: Owner) -> None:
    rejected = await owner.bury(5)
    timed_out = await owner.bury(2, "smtp.timeout")
    errors = pb.DeadJobFilter(kind=owner.kind, error_prefix="smtp.rej")
    dry = await owner.redrive(filter=errors, max_jobs=3, dry_run=True)
    assert (dry.redriven, dry.remaining, list(dry.sample_job_ids)) == (3, 2, rejected[:3])
    assert await owner.lease() == []
    request_id = str(uuid4())
    for _ in range(2):
        reply = await owner.redrive(filter=errors, max_jobs=3, request_id=request_id)
        assert (reply.redriven, reply.remaining, list(reply.sample_job_ids)) == (3, 2, [])
    assert sorted(ref.job_id for ref in await owner.lease()) == rejected[:3]
    assert (await owner.redrive(filter=errors)).redriven == 2
    assert (await owner.redrive(filter=pb.DeadJobFilter(kind="test.nobody"))).redriven == 0
    assert (await owner.redrive(filter=pb.DeadJobFilter())).redriven == 2
    assert sorted(ref.job_id for ref in await owner.lease()) == sorted(rejected[3:] + timed_out)


async def test_a_filter_by_time_takes_what_ended_within(owner: Owner) -> None:
    (first,) = await owner.bury(1)
    between = Timestamp()
    between.FromNanoseconds((await owner.get(first)).finished_at.ToNanoseconds() + 1000)
    (second,) = await owner.bury(1)
    for chosen, ids in (
        (pb.DeadJobFilter(finished_before=between), [first]),
        (pb.DeadJobFilter(finished_after=between), [second]),
    ):
        assert list((await owner.redrive(filter=chosen, dry_run=True)).sample_job_ids) == ids


async def test_a_dry_run_by_ids_says_which_would_rise(owner: Owner) -> None:
    dead, unknown = await owner.bury(2), 2**62
    dry = await owner.redrive(job_ids=[*dead, unknown], dry_run=True)
    assert (dry.redriven, list(dry.sample_job_ids), list(dry.skipped_job_ids)) == (2, dead, [unknown])
    assert (await owner.get(dead[0])).state == pb.JOB_STATE_DEAD


async def test_a_redrive_is_by_ids_or_by_filter(owner: Owner) -> None:
    early, late, never = Timestamp(seconds=1), Timestamp(seconds=2), Timestamp(seconds=-(10**12))
    for fields, field in (
        ({}, "job_ids"),
        ({"job_ids": [1], "filter": pb.DeadJobFilter()}, "filter"),
        ({"job_ids": [1], "max_jobs": 5}, "max_jobs"),
        ({"filter": pb.DeadJobFilter(), "max_jobs": 1001}, "max_jobs"),
        ({"filter": pb.DeadJobFilter(finished_before=early, finished_after=late)}, "filter.finished_before"),
        ({"filter": pb.DeadJobFilter(finished_after=never)}, "filter.finished_after"),
        ({"filter": pb.DeadJobFilter(kind="k" * 201)}, "filter.kind"),
    ):
        assert await refusal(lambda fields=fields: owner.redrive(**fields)) == (  # type: ignore[misc]
            grpc.StatusCode.INVALID_ARGUMENT, [field],
        )  # fmt: skip


async def test_a_filter_reaches_no_other_tenants_dead_letters(owner: Owner) -> None:
    (dead,) = await owner.bury(1)
    stranger = Owner(owner.queue, owner.stub, uuid4(), owner.kind)
    assert (await stranger.redrive(filter=pb.DeadJobFilter())).redriven == 0
    assert (await owner.get(dead)).state == pb.JOB_STATE_DEAD


async def test_waiting_jobs_are_purged_so_many_at_a_time_and_leased_ones_never(owner: Owner) -> None:
    leased = await owner.enqueue(2)
    await owner.lease()
    later = Timestamp()
    later.FromJsonString("2100-01-01T00:00:00Z")
    ids = [*await owner.enqueue(3), *await owner.enqueue(2, run_at=later)]
    dry = await owner.purge(pb.JOB_STATE_READY, max_jobs=4, dry_run=True)
    assert (dry.purged, dry.more, list(dry.sample_job_ids)) == (4, True, ids[:4])
    request_id = str(uuid4())
    for _ in range(2):
        reply = await owner.purge(pb.JOB_STATE_READY, max_jobs=4, request_id=request_id)
        assert (reply.purged, reply.more, list(reply.sample_job_ids)) == (4, True, [])
    reply = await owner.purge(pb.JOB_STATE_READY)
    assert (reply.purged, reply.more) == (1, False)
    page = await owner.queue.call(owner.stub.ListJobs, pb.ListJobsRequest(tenant_id=str(owner.tenant)))
    assert sorted(job.id for job in page.jobs) == leased


async def test_what_is_over_is_purged_by_how_it_ended(owner: Owner) -> None:
    dead = await owner.bury(2)
    (waiting,) = await owner.enqueue()
    await owner.cancel(waiting)
    done = await owner.enqueue(3)
    await owner.queue.call(owner.stub.CompleteJobs, pb.CompleteJobsRequest(leases=await owner.lease()))
    for state, ids in ((COMPLETED, done), (CANCELLED, [waiting]), (pb.JOB_STATE_DEAD, dead)):
        assert list((await owner.purge(state, dry_run=True)).sample_job_ids) == ids
        assert (await owner.purge(state, kind="test.nobody")).purged == 0
        assert (await owner.purge(state, created_before=Timestamp(seconds=1))).purged == 0
        stranger = Owner(owner.queue, owner.stub, uuid4(), owner.kind)
        assert (await stranger.purge(state)).purged == 0
        assert (await owner.purge(state, kind=owner.kind)).purged == len(ids)
    page = await owner.queue.call(owner.stub.ListJobs, pb.ListJobsRequest(tenant_id=str(owner.tenant)))
    assert list(page.jobs) == []


async def test_nothing_of_a_tenant_is_purged_while_a_person_is_held(owner: Owner) -> None:
    dead = await owner.bury(1)
    (cancelled,) = await owner.enqueue()
    await owner.cancel(cancelled)
    done = await owner.enqueue()
    await owner.queue.call(owner.stub.CompleteJobs, pb.CompleteJobsRequest(leases=await owner.lease()))
    ready = await owner.enqueue()
    states = (pb.JOB_STATE_READY, pb.JOB_STATE_DEAD, COMPLETED, CANCELLED)
    by_key = await put_hold(owner.queue, owner.tenant, storage_key="k")
    assert (await owner.purge(pb.JOB_STATE_READY, dry_run=True)).purged == 1, "a content's hold is no person's"
    await release_hold(owner.queue, owner.tenant, by_key)
    hold = await put_hold(owner.queue, owner.tenant, subject=subject("ada@example.com"))
    request_id = str(uuid4())
    for state in states:
        for fields in ({}, {"dry_run": True}, {"request_id": request_id}):
            with pytest.raises(Refused) as refused:
                await owner.purge(state, **fields)
            assert refused.value.answer.code is grpc.StatusCode.FAILED_PRECONDITION
            assert (refused.value.answer.reason, refused.value.answer.metadata) == ("LEGAL_HOLD", {"hold": hold.id})
    page = await owner.queue.call(owner.stub.ListJobs, pb.ListJobsRequest(tenant_id=str(owner.tenant)))
    assert sorted(job.id for job in page.jobs) == sorted([*dead, cancelled, *done, *ready])
    stranger = Owner(owner.queue, owner.stub, uuid4(), owner.kind)
    await stranger.enqueue()
    assert (await stranger.purge(pb.JOB_STATE_READY)).purged == 1, "another tenant's hold is none of its own"
    await release_hold(owner.queue, owner.tenant, hold)
    assert [(await owner.purge(state)).purged for state in states] == [1, 1, 1, 1]


async def test_what_is_cancelled_or_redriven_under_a_hold_is_there_still(owner: Owner) -> None:
    (dead,) = await owner.bury(1)
    (waiting,) = await owner.enqueue()
    await put_hold(owner.queue, owner.tenant, subject=subject("ada@example.com"))
    assert await owner.cancel(waiting) == ([waiting], [], [])
    assert (await owner.redrive(job_ids=[dead])).redriven == 1
    assert [(await owner.get(each)).state for each in (waiting, dead)] == [CANCELLED, pb.JOB_STATE_READY]


async def test_a_purge_sees_a_hold_that_is_being_put(owner: Owner, db: Database) -> None:
    (job_id,) = await owner.enqueue()
    hold = (owner.tenant, uuid4(), subject("ada@example.com"), "", "Case 7", "test", datetime.now(UTC), b"")
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with db.tenant(owner.tenant) as connection:
        await connection.execute(subjects.sql.no_removals)
        await connection.execute(subjects.sql.put_hold, *hold)
        purging = asyncio.create_task(owner.purge(pb.JOB_STATE_READY))
        async with asyncio.timeout(5):
            while not await connection.fetchval(waits):
                assert not purging.done()
    with pytest.raises(Refused) as refused:
        await purging
    assert refused.value.answer.reason == "LEGAL_HOLD"
    assert (await owner.get(job_id)).id == job_id


async def test_a_purge_names_what_is_wrong_with_it(owner: Owner) -> None:
    for call, field in (
        (lambda: owner.purge(pb.JOB_STATE_LEASED), "filter.state"),
        (lambda: owner.purge(pb.JOB_STATE_UNSPECIFIED), "filter.state"),
        (lambda: owner.purge(pb.JOB_STATE_DEAD, max_jobs=5001), "max_jobs"),
        (lambda: owner.purge(COMPLETED, created_before=Timestamp(seconds=-(10**12))), "filter.created_before"),
    ):
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_waiting_jobs_are_given_another_place(owner: Owner) -> None:
    (leased,) = await owner.enqueue()
    await owner.lease()
    first, second = await owner.enqueue(2, rank=7)
    reply = await owner.set_priority(first, leased, 2**62)
    assert (reply.changed, list(reply.skipped_job_ids)) == (1, [leased, 2**62])
    assert (await owner.set_priority(second, priority=pb.JOB_PRIORITY_NORMAL, rank=-3)).changed == 1
    places = [(job.priority, job.rank) for job in [await owner.get(first), await owner.get(second)]]
    assert places == [(pb.JOB_PRIORITY_HIGH, 7), (pb.JOB_PRIORITY_NORMAL, -3)]
    assert sorted(ref.job_id for ref in await owner.lease()) == [first, second]


async def test_an_order_is_given_once(owner: Owner) -> None:
    (job_id,) = await owner.enqueue()
    request_id = str(uuid4())
    assert (await owner.set_priority(job_id, request_id=request_id, rank=0)).changed == 1
    await owner.set_priority(job_id, priority=pb.JOB_PRIORITY_LOW)
    assert (await owner.set_priority(job_id, request_id=request_id, rank=0)).changed == 1
    assert (await owner.get(job_id)).priority == pb.JOB_PRIORITY_LOW
    for fields, field in (({"priority": 0}, "priority"), ({"priority": 9}, "priority"), ({"rank": 1001}, "rank")):
        assert await refusal(lambda fields=fields: owner.set_priority(job_id, **fields)) == (  # type: ignore[misc]
            grpc.StatusCode.INVALID_ARGUMENT, [field],
        )  # fmt: skip
    assert list((await Owner(owner.queue, owner.stub, uuid4(), owner.kind).set_priority(job_id)).skipped_job_ids) == [
        job_id
    ]
