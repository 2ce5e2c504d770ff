"""Queues as those who run the platform see them, and what they do to jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from services.queue.tests.conftest import Serve
from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, ref_of, seconds

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1.queue_admin_service_pb2_grpc import QueueAdminServiceStub
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_devstack.roles import TierDatabase
from penguin_devstack.valkey import ValkeyServer
from penguin_testkit.calling import Refused, TierClient


class Admin:
    """A queue of this test's own, with its one kind in it."""

    def __init__(self, queue: TierClient, kind: str) -> None:
        self.client, self.kind = queue, kind
        self.name = f"q{uuid4().hex}"
        self.stub, self.jobs = QueueAdminServiceStub(queue.channel), QueueServiceStub(queue.channel)

    async def put(self, **fields: Any) -> pb.Queue:
        request = pb.PutQueueRequest(request_id=str(uuid4()), queue=pb.Queue(name=self.name, **fields))
        await self.client.call(self.stub.PutQueue, request)
        moving = pb.MoveKindsRequest(request_id=str(uuid4()), queue=self.name, kinds=[self.kind])
        reply: pb.MoveKindsResponse = await self.client.call(self.stub.MoveKinds, moving)
        return reply.queue

    async def pause(self, target: pb.PauseTarget) -> None:
        await self.client.call(self.stub.PauseJobs, pb.PauseJobsRequest(request_id=str(uuid4()), target=target))

    async def resume(self, target: pb.PauseTarget) -> None:
        await self.client.call(self.stub.ResumeJobs, pb.ResumeJobsRequest(request_id=str(uuid4()), target=target))

    async def enqueue(self, tenant: UUID, count: int = 1, **fields: Any) -> range:
        request = batch_request(tenant, self.kind, *[b"{}"] * count, **fields)
        reply: jobs_pb.EnqueueBatchResponse = await self.client.call(self.jobs.EnqueueBatch, request)
        return range(reply.first_job_id, reply.first_job_id + reply.count)

    async def lease(self, max_jobs: int = 100, wait_s: float = 0) -> list[jobs_pb.LeasedJob]:
        request = lease_request(self.kind, max_jobs=max_jobs, wait_s=wait_s)
        return list((await self.client.call(self.jobs.LeaseJobs, request)).jobs)

    async def complete(self, *leased: jobs_pb.LeasedJob) -> None:
        await self.client.call(self.jobs.CompleteJobs, jobs_pb.CompleteJobsRequest(leases=map(ref_of, leased)))

    async def get(self, tenant: UUID, job_id: int) -> jobs_pb.Job:
        request = jobs_pb.GetJobRequest(tenant_id=str(tenant), job_id=job_id)
        reply: jobs_pb.GetJobResponse = await self.client.call(self.jobs.GetJob, request)
        return reply.job


@pytest.fixture
def admin(queue: TierClient, kind: str) -> Admin:
    return Admin(queue, kind)


@pytest.fixture
async def stream(admin: Admin) -> AsyncIterator[Any]:
    """A worker's stream that waits for this test's kind."""
    method = "/penguin.queue.v1.QueueService/WorkJobs"
    call = admin.jobs.WorkJobs(metadata=admin.client.authorization(method, None), timeout=30)
    await call.initial_metadata()
    start = jobs_pb.WorkStart(kinds=[admin.kind], max_in_flight=10, lease_duration=seconds(30), worker_id="test")
    await call.write(jobs_pb.WorkJobsRequest(start=start))
    await call.read()
    yield call
    call.cancel()


async def test_a_queue_says_what_its_jobs_do_not(admin: Admin, tenant: UUID) -> None:
    queue = await admin.put(priority=jobs_pb.JOB_PRIORITY_LOW, max_attempts=3)
    assert (list(queue.kinds), queue.priority, queue.max_attempts) == ([admin.kind], jobs_pb.JOB_PRIORITY_LOW, 3)
    (plain,) = await admin.enqueue(tenant)
    (own,) = await admin.enqueue(tenant, priority=jobs_pb.JOB_PRIORITY_HIGH, max_attempts=7)
    item = enqueue_request(tenant, new_job(kind=admin.kind))
    reply = await admin.client.call(admin.jobs.EnqueueJobs, item)
    found = [await admin.get(tenant, n) for n in (plain, own, reply.results[0].job_id)]
    assert [(job.priority, job.max_attempts) for job in found] == [
        (jobs_pb.JOB_PRIORITY_LOW, 3), (jobs_pb.JOB_PRIORITY_HIGH, 7), (jobs_pb.JOB_PRIORITY_LOW, 3),
    ]  # fmt: skip


async def test_a_queues_retries_are_its_own(admin: Admin, tenant: UUID) -> None:
    await admin.put(retry=pb.RetryPolicy(base=Duration(nanos=1_000_000), cap=Duration(nanos=2_000_000)))
    await admin.enqueue(tenant)
    for attempt in range(5):
        (leased,) = await admin.lease(wait_s=5)
        assert leased.job.attempts == attempt
        failure = jobs_pb.JobFailure(lease=ref_of(leased), error="test.again", retryable=True)
        await admin.client.call(admin.jobs.FailJobs, jobs_pb.FailJobsRequest(failures=[failure]))


async def test_no_more_of_a_limited_queue_are_in_flight_than_it_says(admin: Admin, tenant: UUID) -> None:
    await admin.put(max_in_flight=3)
    await admin.enqueue(tenant, 10)
    taken = await asyncio.gather(*(admin.lease(2) for _ in range(8)))
    leased = [job for lot in taken for job in lot]
    # Whoever met another at the queue went away empty; the next look takes what there is room for.
    leased += await admin.lease()
    assert len(leased) == 3
    assert await admin.lease(wait_s=0.5) == []
    await admin.complete(*leased[:2])
    assert len(await admin.lease()) == 2


@pytest.mark.parametrize("target", ["queue", "kind", "tenant", "tenant_kind"])
async def test_what_rests_is_not_leased_until_it_is_resumed(admin: Admin, tenant: UUID, target: str) -> None:
    await admin.put()
    resting = {
        "queue": pb.PauseTarget(queue=admin.name),
        "kind": pb.PauseTarget(kind=admin.kind),
        "tenant": pb.PauseTarget(tenant=pb.TenantPause(tenant_id=str(tenant))),
        "tenant_kind": pb.PauseTarget(tenant=pb.TenantPause(tenant_id=str(tenant), kind=admin.kind)),
    }[target]
    other = uuid4()
    await admin.enqueue(tenant, 2)
    await admin.enqueue(other, 1)
    await admin.pause(resting)
    of_others = {str(other)} if target.startswith("tenant") else set()
    # One by one and many at once.
    found = [*await admin.lease(1), *await admin.lease(1), *await admin.lease(100)]
    assert {job.job.tenant_id for job in found} == of_others
    await admin.resume(resting)
    assert len(await admin.lease(wait_s=5)) == (2 if of_others else 3)


async def test_in_flight_jobs_go_on_while_their_queue_rests(admin: Admin, tenant: UUID) -> None:
    await admin.put()
    await admin.enqueue(tenant)
    (leased,) = await admin.lease()
    await admin.pause(pb.PauseTarget(queue=admin.name))
    await admin.complete(leased)
    assert (await admin.get(tenant, leased.job.id)).state == jobs_pb.JOB_STATE_COMPLETED


async def test_a_batch_with_a_rate_key_is_handed_over_unless_keys_have_a_rate(
    admin: Admin, tenant: UUID, stream: Any
) -> None:
    reading = asyncio.ensure_future(stream.read())
    ids = await admin.enqueue(tenant, 2, rate_key="mailbox")
    job = await admin.get(tenant, ids.start)
    assert (job.state, job.rate_key) == (jobs_pb.JOB_STATE_LEASED, "mailbox")
    async with asyncio.timeout(10):
        assert list((await reading).jobs[0].job_ids) == list(ids)
    await admin.put(key_rate=rate(1, 3600))
    ids = await admin.enqueue(tenant, 2, rate_key="mailbox")
    async with asyncio.timeout(10):
        (lot,) = (await stream.read()).jobs
    assert len(lot.job_ids) == 1
    assert not await admin.lease()


async def test_a_resting_job_is_not_handed_to_a_waiting_stream(admin: Admin, tenant: UUID, stream: Any) -> None:
    await admin.put()
    await admin.pause(pb.PauseTarget(kind=admin.kind))
    await asyncio.sleep(0.3)
    await admin.enqueue(tenant)
    item = enqueue_request(tenant, new_job(kind=admin.kind))
    await admin.client.call(admin.jobs.EnqueueJobs, item)
    reading = asyncio.ensure_future(stream.read())
    assert not (await asyncio.wait([reading], timeout=0.7))[0]
    await admin.resume(pb.PauseTarget(kind=admin.kind))
    reply = await asyncio.wait_for(reading, 5)
    assert sum(len(lot.job_ids) for lot in reply.jobs) == 2


async def test_what_rests_is_listed(admin: Admin, tenant: UUID) -> None:
    await admin.put()
    targets = [
        pb.PauseTarget(queue=admin.name),
        pb.PauseTarget(kind=admin.kind),
        pb.PauseTarget(tenant=pb.TenantPause(tenant_id=str(tenant), kind=admin.kind)),
        pb.PauseTarget(tenant=pb.TenantPause(tenant_id=str(tenant))),
    ]
    for target in targets:
        await admin.pause(target)
    listed: list[pb.PauseTarget] = []
    token = ""
    while True:
        reply = await admin.client.call(admin.stub.ListPauses, pb.ListPausesRequest(page_size=2, page_token=token))
        assert len(reply.pauses) <= 2
        listed += reply.pauses
        if not (token := reply.next_page_token):
            break
    assert all(listed.count(target) == 1 for target in targets)
    for target in targets:
        await admin.resume(target)
    rest = await admin.client.call(admin.stub.ListPauses, pb.ListPausesRequest(page_size=1000))
    assert not [target for target in targets if target in rest.pauses]


async def test_a_cap_below_its_base_is_refused_by_its_field(admin: Admin) -> None:
    with pytest.raises(Refused) as refused:
        await admin.put(retry=pb.RetryPolicy(base=seconds(10), cap=seconds(1)))
    assert refused.value.answer.fields == ["queue.retry.cap"]


@pytest.mark.parametrize(
    ("target", "resource"),
    [
        (pb.PauseTarget(queue="none"), "queue"),
        (pb.PauseTarget(kind="none"), "kind"),
        (pb.PauseTarget(tenant=pb.TenantPause(tenant_id=str(uuid4()), kind="none")), "kind"),
    ],
)
async def test_only_what_there_is_can_rest(admin: Admin, target: pb.PauseTarget, resource: str) -> None:
    for act in (admin.pause, admin.resume):
        with pytest.raises(Refused) as refused:
            await act(target)
        assert (refused.value.answer.reason, refused.value.answer.metadata["resource"]) == ("NOT_FOUND", resource)


async def test_other_tenants_wait_no_longer_for_those_that_rest(admin: Admin) -> None:
    """More resting tenants than a lease looks at in a round leave it work to find."""
    await admin.put()
    resting = [uuid4() for _ in range(80)]
    targets = [pb.PauseTarget(tenant=pb.TenantPause(tenant_id=str(each))) for each in resting]
    for tenant, target in zip(resting, targets, strict=True):
        await admin.enqueue(tenant)
        await admin.pause(target)
    others = [uuid4() for _ in range(5)]
    for tenant in others:
        await admin.enqueue(tenant)
    found = [job for _ in range(5) for job in await admin.lease(1)]
    assert {job.job.tenant_id for job in found} == set(map(str, others))
    await asyncio.gather(*map(admin.resume, targets))


def rate(jobs: int, per_s: float, burst: int = 0) -> pb.RateLimit:
    return pb.RateLimit(jobs=jobs, per=seconds(per_s), burst=burst)


async def leased_within(admin: Admin, seconds_: float, enough: int = 1000) -> list[jobs_pb.LeasedJob]:
    """What waiting leases are given, one after the other, for so long or until it is enough."""
    clock = asyncio.get_running_loop().time
    ends = clock() + seconds_
    found: list[jobs_pb.LeasedJob] = []
    while (left := ends - clock()) > 0 and len(found) < enough:
        found += await admin.lease(100, wait_s=left)
    return found


@pytest.mark.parametrize("whose", ["rate", "tenant_rate"])
async def test_no_more_is_leased_than_the_rate_lets_go(admin: Admin, tenant: UUID, whose: str) -> None:
    await admin.put(**{whose: rate(100, 10, burst=5)})
    await admin.enqueue(tenant, 40)
    found = await leased_within(admin, 1.5)
    # One token at the least where the buckets are new, and 10 a second.
    assert 5 <= len(found) <= 5 + 15 + 1
    assert len({job.job.id for job in found}) == len(found)
    assert not any(job.job.snoozes or job.job.attempts for job in found)
    listed = await admin.client.call(admin.jobs.ListJobs, jobs_pb.ListJobsRequest(tenant_id=str(tenant), page_size=100))
    assert sum(job.state == jobs_pb.JOB_STATE_READY for job in listed.jobs) == 40 - len(found)


async def test_each_key_has_a_rate_of_its_own_and_others_pass_by(admin: Admin, tenant: UUID) -> None:
    await admin.put(key_rate=rate(5, 1, burst=1))
    for key in ("first", "second"):
        jobs = [new_job(kind=admin.kind, rate_key=key) for _ in range(20)]
        await admin.client.call(admin.jobs.EnqueueJobs, enqueue_request(tenant, *jobs))
    await admin.enqueue(tenant, 7)
    assert len(await admin.lease(100)) == 7 + 2
    found = await leased_within(admin, 1.5)
    assert 10 <= len(found) <= 2 * (1 + 7)
    assert not any(job.job.snoozes or job.job.attempts or job.job.lost_leases for job in found)


async def test_a_rate_that_is_taken_away_holds_no_longer(admin: Admin, tenant: UUID) -> None:
    await admin.put(rate=rate(1, 3600))
    await admin.enqueue(tenant, 20)
    first = await admin.lease(100)
    assert len(first) <= 1
    queue = await admin.put()
    assert not queue.HasField("rate")
    rest = 20 - len(first)
    assert len(await leased_within(admin, 20.0, rest)) == rest


async def test_a_queue_shows_its_rates_and_a_burst_for_those_that_have_none(admin: Admin) -> None:
    queue = await admin.put(rate=rate(600, 60), tenant_rate=rate(400, 86400), key_rate=rate(7, 1, burst=2))
    assert [(r.jobs, r.per.seconds, r.burst) for r in (queue.rate, queue.tenant_rate, queue.key_rate)] == [
        (600, 60, 10), (400, 86400, 1), (7, 1, 2)
    ]  # fmt: skip


async def test_a_tenant_of_more_weight_has_more_of_a_lease(admin: Admin, tenant: UUID) -> None:
    await admin.put()
    ordinary = uuid4()
    weight = pb.TenantWeight(tenant_id=str(tenant), weight=300)
    request = pb.SetTenantWeightRequest(request_id=str(uuid4()), weight=weight)
    await admin.client.call(admin.stub.SetTenantWeight, request)
    await asyncio.sleep(0.5)
    for owner in (tenant, ordinary):
        await admin.enqueue(owner, 100)
    found = [job.job.tenant_id for job in await admin.lease(80)]
    assert 2 < found.count(str(tenant)) / found.count(str(ordinary)) < 4


async def test_a_rate_holds_from_the_first_lease_of_a_new_process_on(
    admin: Admin, tenant: UUID, serve: Serve, queue_urls: TierDatabase, valkey: ValkeyServer
) -> None:
    await admin.put(rate=rate(1, 3600))
    await admin.enqueue(tenant, 50)
    assert len(await admin.lease(100)) <= 1
    for _ in range(3):
        async with serve(queue_urls, valkey.url) as fresh:
            stub = QueueServiceStub(fresh.channel)
            reply = await fresh.call(stub.LeaseJobs, lease_request(admin.kind, max_jobs=50, wait_s=0.5))
            assert len(reply.jobs) == 0
