"""A job that kills its workers becomes a dead letter; workers that are away as a whole make none. Each service of its own: what
is spared depends on what the services of a database have heard of all workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from libs.worker.tests.waiting import until
from services.queue.tests.conftest import Serve
from services.queue.tests.rows import lease_request, ref_of
from services.queue.tests.rpc.test_queues import Admin

from penguin.queue.v1 import queue_admin_service_pb2 as admin_pb
from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_queue.domain.fleet import SPARED, TOLD
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases

# As many leases a job may lose here.
LIMIT = 1
# The shortest that the contract allows.
LEASE_S = 1.0


@pytest.fixture
async def admin(serve: Serve, databases: Databases, kind: str) -> AsyncIterator[Admin]:
    async with serve(await databases.clone("queue"), "") as client:
        admin = Admin(client, kind)
        await admin.put(lost_lease_limit=LIMIT)
        yield admin


async def lost(admin: Admin, count: int) -> list[pb.LeasedJob]:
    """Leases of so many jobs, to workers that never speak again."""
    leased: list[pb.LeasedJob] = []
    while len(leased) < count:
        request = lease_request(admin.kind, max_jobs=count - len(leased), lease_s=LEASE_S, wait_s=10)
        reply = await admin.client.call(admin.jobs.LeaseJobs, request)
        assert reply.jobs, "a job that lost its lease did not come back"
        leased += reply.jobs
    return leased


async def well(admin: Admin, tenant: UUID, count: int = 60) -> None:
    """Workers do so many jobs."""
    await admin.enqueue(tenant, count)
    while count:
        leased = await admin.lease(count, wait_s=10)
        await admin.complete(*leased)
        count -= len(leased)


@contextlib.asynccontextmanager
async def others_well(client: TierClient, kind: str, tenant: UUID) -> AsyncIterator[None]:
    """Workers of another kind go on doing jobs beside the block."""
    other = Admin(client, f"{kind}.other")

    async def go_on() -> None:
        while True:
            await well(other, tenant, 20)
            await asyncio.sleep(0.05)

    await well(other, tenant, 20)
    working = asyncio.create_task(go_on())
    try:
        yield
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


async def put_off(admin: Admin, leased: pb.LeasedJob) -> None:
    """Back in a moment."""
    snooze = pb.JobSnooze(lease=ref_of(leased), reason="test.away")
    snooze.delay.FromMilliseconds(1)
    await admin.client.call(admin.jobs.SnoozeJobs, pb.SnoozeJobsRequest(snoozes=[snooze]))


async def attempts(admin: Admin, tenant: UUID, job_id: int) -> list[pb.JobAttempt]:
    request = pb.ListJobAttemptsRequest(tenant_id=str(tenant), job_id=job_id)
    return list((await admin.client.call(admin.jobs.ListJobAttempts, request)).attempts)


async def dies(admin: Admin, tenant: UUID, job_id: int) -> pb.Job:
    """The job once it is a dead letter."""

    async def dead() -> bool:
        return (await admin.get(tenant, job_id)).state == pb.JOB_STATE_DEAD

    await until(dead, 10)
    return await admin.get(tenant, job_id)


async def test_one_lease_more_than_the_limit_makes_a_dead_letter_and_says_why(admin: Admin, tenant: UUID) -> None:
    (poison,) = await admin.enqueue(tenant)
    async with others_well(admin.client, admin.kind, tenant):
        for n in range(LIMIT + 1):
            (last,) = await lost(admin, 1)
            assert (last.job.id, last.job.lost_leases) == (poison, n)
        dead = await dies(admin, tenant, poison)
    assert (dead.last_error, dead.lost_leases, dead.attempts) == ("lease_lost", LIMIT + 1, 0)
    assert dead.HasField("finished_at")
    told = await attempts(admin, tenant, poison)
    assert {(each.outcome, each.error, each.worker_id) for each in told} == {
        (pb.ATTEMPT_OUTCOME_LOST, "lease_lost", "test")
    }
    assert len(told) == LIMIT + 1
    # It is nobody's any more, and is found where dead letters are.
    assert await admin.lease() == []
    reply = await admin.client.call(admin.jobs.CompleteJobs, pb.CompleteJobsRequest(leases=[ref_of(last)]))
    assert list(reply.lost_job_ids) == [poison]
    listing = pb.ListJobsRequest(tenant_id=str(tenant), state=pb.JOB_STATE_DEAD)
    assert [job.id for job in (await admin.client.call(admin.jobs.ListJobs, listing)).jobs] == [poison]


async def test_failures_and_snoozes_are_no_lost_leases(admin: Admin, tenant: UUID) -> None:
    await admin.put(lost_lease_limit=LIMIT, retry=_at_once())
    (job_id,) = await admin.enqueue(tenant)
    for _ in range(LIMIT + 2):
        (leased,) = await admin.lease(wait_s=10)
        failure = pb.JobFailure(lease=ref_of(leased), error="test.again", retryable=True)
        await admin.client.call(admin.jobs.FailJobs, pb.FailJobsRequest(failures=[failure]))
        (leased,) = await admin.lease(wait_s=10)
        await put_off(admin, leased)
    job = await admin.get(tenant, job_id)
    assert (job.state, job.attempts, job.snoozes, job.lost_leases) == (pb.JOB_STATE_READY, LIMIT + 2, LIMIT + 2, 0)


def _at_once() -> admin_pb.RetryPolicy:
    retry = admin_pb.RetryPolicy()
    retry.base.FromMilliseconds(1)
    retry.cap.FromMilliseconds(1)
    return retry


@pytest.mark.parametrize("workers", [1, 4, 12])
async def test_while_all_workers_stall_no_job_is_taken_for_poison_and_afterwards_one_is(
    admin: Admin, tenant: UUID, workers: int
) -> None:
    ids = set(await admin.enqueue(tenant, workers))
    rounds = LIMIT + 2
    assert rounds <= LIMIT + SPARED
    for n in range(rounds):
        leased = await lost(admin, len(ids))
        assert {each.job.id for each in leased} == ids
        assert {each.job.lost_leases for each in leased} == {n}
    # They are back: each has lost more than the limit, and none is dead.
    held: list[pb.LeasedJob] = []
    while len(held) < len(ids):
        held += await admin.lease(len(ids) - len(held), wait_s=10)
    assert {each.job.lost_leases for each in held} == {rounds}
    poison, *others = held
    if others:
        await admin.complete(*others)
    # Soon more is spoken of than is lost: what runs out then is that job's own doing.
    await well(admin, tenant, 2 * rounds * len(ids))
    await put_off(admin, poison)
    async with others_well(admin.client, admin.kind, tenant):
        (poison,) = await lost(admin, 1)
        dead = await dies(admin, tenant, poison.job.id)
    assert (dead.last_error, dead.lost_leases) == ("lease_lost", rounds + 1)
    states = {each: (await admin.get(tenant, each)).state for each in ids - {poison.job.id}}
    assert set(states.values()) <= {pb.JOB_STATE_COMPLETED}


async def test_a_service_that_hears_no_worker_itself_calls_no_stall(
    serve: Serve, databases: Databases, kind: str, tenant: UUID
) -> None:
    """Two services of one database: workers are all at the first, and what is lost is all found by the second."""
    urls, jobs = await databases.clone("queue"), 8
    async with contextlib.AsyncExitStack() as stack:
        idle = Admin(await stack.enter_async_context(serve(urls, "")), kind)
        await idle.put(lost_lease_limit=LIMIT)
        busy = await stack.enter_async_context(serve(urls, ""))
        await stack.enter_async_context(others_well(busy, kind, tenant))
        # It tells of its workers once a second.
        await asyncio.sleep(2 * TOLD.total_seconds())
        ids = list(await idle.enqueue(tenant, jobs))
        for _ in range(LIMIT + 1):
            assert {each.job.id for each in await lost(idle, jobs)} == set(ids)
        for each in ids:
            assert (await dies(idle, tenant, each)).lost_leases == LIMIT + 1


async def test_a_busy_minute_does_not_hide_that_all_workers_stall(admin: Admin, tenant: UUID) -> None:
    await admin.put()  # of lost leases as many as by default
    await well(admin, tenant, 1000)
    ids = list(await admin.enqueue(tenant, 40))
    for _ in range(7):
        assert len(await lost(admin, len(ids))) == len(ids)
    states = [(await admin.get(tenant, each)).state for each in ids]
    assert pb.JOB_STATE_DEAD not in states
