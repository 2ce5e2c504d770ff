"""What QueueService promises of jobs that are not in a worker's hands: to look at them, and to cancel, redrive, purge and hasten them.
And jobs for its other methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from services.queue.tests.rows import enqueue_request, lease_request, new_job, ref_of, seconds
from tests.contract.cases import Case, Listing, Mutation, Within, equal
from tests.contract.wire import World

from penguin.queue.v1 import queue_service_pb2 as pb

SERVICE = "penguin.queue.v1.QueueService"
UNKNOWN = 2**62


def kind_of(world: World) -> str:
    """A kind of this test alone: leases span tenants."""
    return f"test.k{world.tenant.hex}"


async def enqueue(world: World, count: int, **fields: Any) -> list[int]:
    """Jobs that are due; their ids."""
    jobs = [new_job(kind=kind_of(world), **fields) for _ in range(count)]
    reply = await world.call(f"{SERVICE}/EnqueueJobs", enqueue_request(world.tenant, *jobs))
    return [result.job_id for result in reply.results]


async def lease(world: World, count: int) -> list[pb.LeaseRef]:
    """Jobs in hand."""
    await enqueue(world, count)
    reply = await world.call(f"{SERVICE}/LeaseJobs", lease_request(kind_of(world)))
    assert len(reply.jobs) == count
    return [ref_of(each) for each in reply.jobs]


async def bury(world: World, count: int) -> list[int]:
    """Dead letters; their ids."""
    leases = await lease(world, count)
    failures = [pb.JobFailure(lease=ref, error="test.final") for ref in leases]
    await world.call(f"{SERVICE}/FailJobs", pb.FailJobsRequest(failures=failures))
    return [ref.job_id for ref in leases]


async def jobs_of(world: World, request: Any) -> list[Any]:
    """The tenant's jobs as they stand."""
    reply = await world.call(f"{SERVICE}/ListJobs", pb.ListJobsRequest(tenant_id=str(world.tenant)))
    return list(reply.jobs)


async def enqueued_by(world: World, request: Any) -> list[Any]:
    """The jobs of the tenant that is asked about."""
    reply = await world.call(f"{SERVICE}/ListJobs", pb.ListJobsRequest(tenant_id=request.tenant_id))
    return list(reply.jobs)


async def get_one(world: World) -> Any:
    (job_id,) = await enqueue(world, 1)
    return pb.GetJobRequest(tenant_id=str(world.tenant), job_id=job_id)


async def list_five(world: World) -> Any:
    await enqueue(world, 5)
    return pb.ListJobsRequest(tenant_id=str(world.tenant))


async def two_payloads(world: World) -> Any:
    """One that waits, and one that is dead."""
    return pb.GetJobPayloadsRequest(
        tenant_id=str(world.tenant), job_ids=[*await bury(world, 1), *await enqueue(world, 1)]
    )


def check_payloads(request: Any, reply: Any) -> None:
    assert [(each.job_id, each.payload) for each in reply.payloads] == [(n, b'{"n":1}') for n in request.job_ids]
    assert not reply.missing_ids
    assert not reply.deferred_ids


async def redrive_two(world: World) -> Any:
    return pb.RedriveJobsRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), job_ids=await bury(world, 2))


async def cancel_three(world: World) -> Any:
    """Two that wait, and one in a worker's hands."""
    (ref,) = await lease(world, 1)
    ids = [ref.job_id, *await enqueue(world, 2)]
    return pb.CancelJobsRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), job_ids=ids)


async def purge_ready(world: World) -> Any:
    """Two that wait, beside one that is leased and stays."""
    await lease(world, 1)
    await enqueue(world, 2)
    chosen = pb.PurgeFilter(state=pb.JOB_STATE_READY)
    return pb.PurgeJobsRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), filter=chosen)


async def hasten_two(world: World) -> Any:
    return pb.SetJobPriorityRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), job_ids=await enqueue(world, 2),
        priority=pb.JOB_PRIORITY_HIGH, rank=-5,
    )  # fmt: skip


async def stats(world: World) -> Any:
    await enqueue(world, 3)
    return pb.GetQueueStatsRequest(tenant_id=str(world.tenant))


async def five_attempts(world: World) -> Any:
    """A job that has failed five times."""
    (job_id,) = await enqueue(world, 1)
    for _ in range(5):
        (leased,) = (await world.call(f"{SERVICE}/LeaseJobs", lease_request(kind_of(world)))).jobs
        failure = pb.JobFailure(lease=ref_of(leased), error="test.x", retryable=True, retry_delay=seconds(0))
        await world.call(f"{SERVICE}/FailJobs", pb.FailJobsRequest(failures=[failure]))
    return pb.ListJobAttemptsRequest(tenant_id=str(world.tenant), job_id=job_id)


def only_unknown(request: Any) -> None:
    del request.job_ids[:]
    request.job_ids.append(UNKNOWN)


def match_nothing(request: Any) -> None:
    request.ClearField("job_ids")
    request.filter.kind = "test.nobody"


def check_cancelled(request: Any, reply: Any) -> None:
    leased, *waiting = request.job_ids
    assert (list(reply.cancelled_job_ids), list(reply.cancelling_job_ids)) == (waiting, [leased])
    assert not reply.skipped_job_ids


def none_cancelled(count: int) -> Callable[[Any], None]:
    """Nothing was cancelled; the ids are named."""

    def check(reply: Any) -> None:
        assert (len(reply.cancelled_job_ids), len(reply.cancelling_job_ids)) == (0, 0)
        assert len(reply.skipped_job_ids) == count

    return check


def unchanged(count: int) -> Callable[[Any], None]:
    """Nothing was given another place; the ids are named."""

    def check(reply: Any) -> None:
        assert (reply.changed, len(reply.skipped_job_ids)) == (0, count)

    return check


def skipped(count: int) -> Callable[[Any], None]:
    """Nothing was redriven; the ids are named."""

    def check(reply: Any) -> None:
        assert (reply.redriven, len(reply.skipped_job_ids)) == (0, count)

    return check


CASES = (
    Case(
        "GetJob",
        get_one,
        lambda request, reply: equal(reply.job.id, request.job_id),
        ("job_id", lambda r: setattr(r, "job_id", 0)),
        lambda r: setattr(r, "job_id", UNKNOWN),
    ),
    Case(
        "ListJobs",
        list_five,
        lambda request, reply: equal(len(reply.jobs), 5),
        ("state", lambda r: setattr(r, "state", 99)),
        "a list of nothing is empty",
        stranger=lambda reply: equal(list(reply.jobs), []),
        listing=Listing("jobs", 5, lambda r: setattr(r, "state", pb.JOB_STATE_READY)),
    ),
    Case(
        "GetJobPayloads",
        two_payloads,
        check_payloads,
        ("job_ids[0]", lambda r: r.job_ids.__setitem__(0, 0)),
        Within(only_unknown, lambda reply: equal(list(reply.missing_ids), [UNKNOWN])),
        stranger=lambda reply: equal((list(reply.payloads), len(reply.missing_ids)), ([], 2)),
    ),
    Case(
        "CancelJobs",
        cancel_three,
        check_cancelled,
        ("job_ids[0]", lambda r: r.job_ids.__setitem__(0, 0)),
        Within(only_unknown, none_cancelled(1)),
        stranger=none_cancelled(3),
        mutation=Mutation(enqueued_by, vary=lambda r: r.job_ids.append(UNKNOWN)),
    ),
    Case(
        "RedriveJobs",
        redrive_two,
        lambda request, reply: equal((reply.redriven, list(reply.skipped_job_ids)), (2, [])),
        ("job_ids[0]", lambda r: r.job_ids.__setitem__(0, 0)),
        Within(only_unknown, skipped(1)),
        stranger=skipped(2),
        mutation=Mutation(enqueued_by, vary=match_nothing),
    ),
    Case(
        "PurgeJobs",
        purge_ready,
        lambda request, reply: equal((reply.purged, reply.more), (2, False)),
        ("filter.state", lambda r: setattr(r.filter, "state", pb.JOB_STATE_LEASED)),
        Within(lambda r: setattr(r.filter, "kind", "test.nobody"), lambda reply: equal(reply.purged, 0)),
        stranger=lambda reply: equal(reply.purged, 0),
        mutation=Mutation(enqueued_by, vary=lambda r: setattr(r.filter, "kind", "test.nobody")),
    ),
    Case(
        "SetJobPriority",
        hasten_two,
        lambda request, reply: equal((reply.changed, list(reply.skipped_job_ids)), (2, [])),
        ("priority", lambda r: r.ClearField("priority")),
        Within(only_unknown, unchanged(1)),
        stranger=unchanged(2),
        mutation=Mutation(enqueued_by, vary=lambda r: setattr(r, "rank", 5)),
    ),
    Case(
        "ListJobAttempts",
        five_attempts,
        lambda request, reply: equal([each.attempt for each in reply.attempts], [5, 4, 3, 2, 1]),
        ("job_id", lambda r: setattr(r, "job_id", 0)),
        "a list of nothing is empty",
        stranger=lambda reply: equal(list(reply.attempts), []),
        listing=Listing("attempts", 5, lambda r: setattr(r, "job_id", UNKNOWN)),
    ),
    Case(
        "GetQueueStats",
        stats,
        lambda request, reply: equal([(c.state, c.count) for c in reply.counts], [(pb.JOB_STATE_READY, 3)]),
        ("tenant_id", lambda r: setattr(r, "tenant_id", "x")),
        "a tenant without jobs has none to count",
        stranger=lambda reply: equal(list(reply.counts), []),
    ),
)
