"""QueueService: every method, by its contract. Leases are fenced by their tokens, which stand in for request ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, seconds
from tests.contract import queue_jobs
from tests.contract.cases import Batch, Case, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.queue_jobs import SERVICE, UNKNOWN, enqueue, enqueued_by, jobs_of, kind_of, lease
from tests.contract.wire import World

from penguin.queue.v1 import queue_service_pb2 as pb

FENCED = "fenced by the lease's token: a lease that was spoken for is not there a second time"


def tell(request: Callable[[pb.LeaseRef], Any]) -> Callable[[World], Any]:
    """A request that says one thing of one lease."""

    async def build(world: World) -> Any:
        (ref,) = await lease(world, 1)
        return request(ref)

    return build


async def three_jobs(world: World) -> Any:
    return enqueue_request(world.tenant, *(new_job(kind=kind_of(world)) for _ in range(3)))


async def three_alike(world: World) -> Any:
    return batch_request(world.tenant, kind_of(world), b"{}", b'{"n":1}', b'{"n":2}')


async def a_batch_by_stream(world: World) -> Any:
    return [await three_alike(world)]


async def two_due(world: World) -> Any:
    await enqueue(world, 2)
    return lease_request(kind_of(world))


async def one_done(world: World) -> Any:
    (ref,) = await lease(world, 1)
    start = pb.WorkStart(kinds=["test.nobody"], max_in_flight=1, lease_duration=seconds(30), worker_id="test")
    done = pb.Leases(job_ids=[ref.job_id], lease_tokens=[ref.lease_token])
    return [pb.WorkJobsRequest(start=start), pb.WorkJobsRequest(number=1, completed=done)]


def no_object(items: Any) -> None:
    items[1].payload = b"[]"


def unknown_lease(ref: pb.LeaseRef) -> None:
    ref.job_id = UNKNOWN


def lost(reply: Any) -> None:
    assert list(reply.lost_job_ids) == [UNKNOWN]


def again_lost(first: Any, second: Any) -> None:
    assert not first.lost_job_ids
    assert len(second.lost_job_ids) == 1


def none_left(first: Any, second: Any) -> None:
    assert len(first.jobs) == 2
    assert not second.jobs


def extended_again(first: Any, second: Any) -> None:
    assert not second.lost_job_ids
    assert second.leased_until.ToDatetime() >= first.leased_until.ToDatetime()


async def lease_state(world: World, request: Any) -> Any:
    """Whether the jobs' leases end soon or late: an extension that is repeated counts from its own time."""
    return [job.leased_until.seconds - job.created_at.seconds > 1800 for job in await jobs_of(world, request)]


def check_leased(request: Any, reply: Any) -> None:
    assert len(reply.jobs) == 2
    assert {leased.job.kind for leased in reply.jobs} == set(request.kinds)
    assert all(leased.lease_token > 0 for leased in reply.jobs)


def check_extended(request: Any, reply: Any) -> None:
    assert (reply.HasField("leased_until"), list(reply.lost_job_ids)) == (True, [])


class TestQueueService(ServiceContract):
    service = SERVICE
    tiers = ("queue",)
    cases = (
        Case(
            "EnqueueJobs",
            three_jobs,
            lambda request, reply: equal(len({r.job_id for r in reply.results}), len(request.jobs)),
            ("jobs[1].kind", lambda r: setattr(r.jobs[1], "kind", "No Kind")),
            "it names nothing that could be absent",
            stranger=lambda reply: equal([r.WhichOneof("outcome") for r in reply.results], ["job_id"] * 3),
            mutation=Mutation(enqueued_by, vary=lambda r: setattr(r.jobs[0], "payload", b'{"n":2}')),
            batch=Batch("jobs", no_object, "INVALID_FIELD"),
        ),
        Case(
            "EnqueueBatch",
            three_alike,
            lambda request, reply: equal((reply.count, reply.first_job_id > 0), (3, True)),
            ("kind", lambda r: setattr(r, "kind", "No Kind")),
            "it names nothing that could be absent",
            stranger=lambda reply: equal(reply.count, 3),
            mutation=Mutation(enqueued_by, vary=lambda r: r.payloads.append(b"{}")),
        ),
        Case(
            "EnqueueStream",
            a_batch_by_stream,
            lambda request, replies: equal(
                (replies[0].request_id, replies[0].stored.count), (request[0].request_id, 3)
            ),
            ("kind", lambda r: setattr(r[0], "kind", "No Kind")),
            "it names nothing that could be absent",
            mutation=Mutation(jobs_of, unkeyed="its messages have a key each, and are answered one by one"),
            stranger=lambda replies: equal(replies[0].stored.count, 3),
            enough=lambda request, reply: True,
        ),
        Case(
            "LeaseJobs",
            two_due,
            check_leased,
            ("max_jobs", lambda r: setattr(r, "max_jobs", 0)),
            Within(lambda r: r.kinds.__setitem__(0, "test.nobody"), lambda reply: equal(list(reply.jobs), [])),
            mutation=Mutation(jobs_of, unkeyed="a job that is leased is not leased again", repeats=none_left),
        ),
        Case(
            "WorkJobs",
            one_done,
            lambda request, replies: equal(replies[-1].answer.completed, 1),
            ("start.max_in_flight", lambda r: setattr(r[0].start, "max_in_flight", 0)),
            Within(lambda r: r[1].completed.job_ids.__setitem__(0, UNKNOWN), lambda replies: lost(replies[-1].answer)),
            mutation=Mutation(jobs_of, unkeyed="done under the same lease is done"),
            enough=lambda request, reply: reply.HasField("answer"),
        ),
        Case(
            "ExtendLeases",
            tell(lambda ref: pb.ExtendLeasesRequest(leases=[ref], lease_duration=seconds(3600))),
            check_extended,
            ("leases[0].job_id", lambda r: setattr(r.leases[0], "job_id", -1)),
            Within(lambda r: unknown_lease(r.leases[0]), lost),
            mutation=Mutation(lease_state, unkeyed="it sets a time and adds nothing", repeats=extended_again),
        ),
        Case(
            "CompleteJobs",
            tell(lambda ref: pb.CompleteJobsRequest(leases=[ref])),
            lambda request, reply: equal((reply.completed, list(reply.lost_job_ids)), (1, [])),
            ("leases[0].lease_token", lambda r: setattr(r.leases[0], "lease_token", 0)),
            Within(lambda r: unknown_lease(r.leases[0]), lost),
            mutation=Mutation(jobs_of, unkeyed="done under the same lease is done"),
        ),
        Case(
            "FailJobs",
            tell(lambda ref: pb.FailJobsRequest(failures=[pb.JobFailure(lease=ref, error="test.x", retryable=True)])),
            lambda request, reply: equal((reply.retried, reply.dead), (1, 0)),
            ("failures[0].error", lambda r: r.failures[0].ClearField("error")),
            Within(lambda r: unknown_lease(r.failures[0].lease), lost),
            mutation=Mutation(jobs_of, unkeyed=FENCED, repeats=again_lost),
        ),
        Case(
            "SnoozeJobs",
            tell(lambda ref: pb.SnoozeJobsRequest(snoozes=[pb.JobSnooze(lease=ref, delay=seconds(3600))])),
            lambda request, reply: equal((reply.snoozed, list(reply.lost_job_ids)), (1, [])),
            ("snoozes[0].delay", lambda r: r.snoozes[0].ClearField("delay")),
            Within(lambda r: unknown_lease(r.snoozes[0].lease), lost),
            mutation=Mutation(jobs_of, unkeyed=FENCED, repeats=again_lost),
        ),
        Case(
            "ReleaseJobs",
            tell(lambda ref: pb.ReleaseJobsRequest(leases=[ref])),
            lambda request, reply: equal((reply.released, list(reply.lost_job_ids)), (1, [])),
            ("leases[0].job_id", lambda r: setattr(r.leases[0], "job_id", 0)),
            Within(lambda r: unknown_lease(r.leases[0]), lost),
            mutation=Mutation(jobs_of, unkeyed=FENCED, repeats=again_lost),
        ),
        *queue_jobs.CASES,
    )
