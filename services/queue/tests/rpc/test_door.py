"""What producers may say, and what it does to others: a tenant's times are no other tenant's trouble, and what is leased is
never stranded by what comes after."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from libs.worker.tests.waiting import until
from services.queue.tests.conftest import Serve
from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, seconds
from services.queue.tests.rpc.test_queues import Admin

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_queue.domain import lanes
from penguin_queue.domain.jobs import LATEST
from penguin_queue.domain.lanes import Lanes
from penguin_testkit.calling import Refused
from penguin_testkit.databases import Databases

YEAR_1 = Timestamp(seconds=-62135596800)
LAST = Timestamp(seconds=253402300799, nanos=999_999_999)


@pytest.fixture
async def admin(serve: Serve, databases: Databases, kind: str) -> AsyncIterator[Admin]:
    """A service of its own: what is wrong here is everybody's there."""
    async with serve(await databases.clone("queue"), "") as client:
        yield Admin(client, kind)


def unique() -> pb.UniqueKey:
    return pb.UniqueKey(key="k", on_conflict=pb.ON_CONFLICT_REPLACE)


async def by_items(admin: Admin, tenant: UUID, **fields: Any) -> list[int]:
    request = enqueue_request(tenant, new_job(kind=admin.kind, **fields))
    return [each.job_id for each in (await admin.client.call(admin.jobs.EnqueueJobs, request)).results]


async def as_replacement(admin: Admin, tenant: UUID, **fields: Any) -> list[int]:
    await by_items(admin, tenant, unique=unique())
    return await by_items(admin, tenant, unique=unique(), **fields)


async def as_batch(admin: Admin, tenant: UUID, **fields: Any) -> list[int]:
    return list(await admin.enqueue(tenant, 1, **fields))


async def as_ordered_batch(admin: Admin, tenant: UUID, **fields: Any) -> list[int]:
    return list(await admin.enqueue(tenant, 1, ordering_key="o", **fields))


WAYS = (by_items, as_replacement, as_batch, as_ordered_batch)


@pytest.mark.parametrize("way", WAYS)
async def test_the_first_moment_there_is_counts_as_now_and_strands_nobody(admin: Admin, tenant: UUID, way: Any) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    (early,) = await way(admin, uuid4(), run_at=YEAR_1)
    others = set(await admin.enqueue(tenant, 3))
    leased = await admin.lease(wait_s=5)
    assert {each.job.id for each in leased} == {early, *others}
    assert all(each.job.run_at.ToDatetime(UTC) > before for each in leased)
    # Whoever asks for any kind is served as well.
    await admin.enqueue(tenant)
    request = lease_request(max_jobs=1, wait_s=5)
    assert len((await admin.client.call(admin.jobs.LeaseJobs, request)).jobs) == 1


async def test_a_repeat_of_a_past_run_at_is_a_repeat_and_another_one_is_none(admin: Admin, tenant: UUID) -> None:
    batch = batch_request(tenant, admin.kind, b"{}", run_at=Timestamp(seconds=1))
    item = enqueue_request(tenant, new_job(kind=admin.kind, run_at=YEAR_1))
    firsts = [
        (await admin.client.call(admin.jobs.EnqueueBatch, batch)).first_job_id,
        (await admin.client.call(admin.jobs.EnqueueJobs, item)).results[0].job_id,
    ]
    again = [
        (await admin.client.call(admin.jobs.EnqueueBatch, batch)).first_job_id,
        (await admin.client.call(admin.jobs.EnqueueJobs, item)).results[0].job_id,
    ]
    assert again == firsts
    batch.run_at.seconds = 2
    with pytest.raises(Refused) as refused:
        await admin.client.call(admin.jobs.EnqueueBatch, batch)
    assert refused.value.answer.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("late", [False, True])
async def test_what_is_meant_for_another_age_is_refused_and_what_is_right_beside_it_is_stored(
    admin: Admin, tenant: UUID, late: bool
) -> None:
    run_at = LAST if late else Timestamp(seconds=int(LATEST.timestamp()))
    request = enqueue_request(
        tenant,
        new_job(kind=admin.kind, run_at=run_at),
        new_job(kind=admin.kind),
        new_job(kind=admin.kind, unique=unique()),
    )
    bad, *good = (await admin.client.call(admin.jobs.EnqueueJobs, request)).results
    assert (bad.error.code, bad.error.field) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "run_at")
    with pytest.raises(Refused) as refused:
        await admin.enqueue(tenant, run_at=run_at)
    assert refused.value.answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {each.job.id for each in await admin.lease(wait_s=5)} == {each.job_id for each in good}


async def test_a_backlog_that_says_it_is_old_is_no_older_than_it_is(admin: Admin) -> None:
    loud, quiet = uuid4(), uuid4()
    await admin.enqueue(quiet, 200, priority=pb.JOB_PRIORITY_HIGH)
    await admin.enqueue(loud, 200, priority=pb.JOB_PRIORITY_LOW, run_at=Timestamp(seconds=1))
    await admin.enqueue(uuid4(), 100, priority=pb.JOB_PRIORITY_LOW)
    leased = await admin.lease(60)
    assert Counter(each.job.tenant_id for each in leased) == {str(quiet): 60}


class Broken(Exception):
    """What comes after a lease goes wrong."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The next lease fails once it is committed; told by what it took."""
    taken: list[str] = []
    right = Lanes.leased

    def leased(self: Lanes, mark: int, turns: Any, wanted: int, rows: Any, **named: Any) -> None:
        if rows and not taken:
            taken.extend(each.lane.kind for each in rows)
            raise Broken
        right(self, mark, turns, wanted, rows, **named)

    monkeypatch.setattr(Lanes, "leased", leased)
    return taken


async def test_what_was_leased_goes_back_untouched_when_the_lease_fails_afterwards(
    admin: Admin, tenant: UUID, broken: list[str]
) -> None:
    await admin.put(lost_lease_limit=0)
    ids = await admin.enqueue(tenant, 3)
    with pytest.raises(Refused) as refused:
        await admin.lease()
    assert (refused.value.answer.code, broken[0]) == (grpc.StatusCode.INTERNAL, admin.kind)

    async def back() -> bool:
        return {(await admin.get(tenant, n)).state for n in ids} == {pb.JOB_STATE_READY}

    await until(back, 10)
    leased = await admin.lease(wait_s=10)
    assert [(each.job.id, each.job.lost_leases, each.job.attempts) for each in leased] == [(n, 0, 0) for n in ids]


async def test_a_stream_that_breaks_after_its_lease_leaves_nothing_behind(
    admin: Admin, tenant: UUID, broken: list[str]
) -> None:
    await admin.put(lost_lease_limit=0)
    ids = await admin.enqueue(tenant, 3)
    method = "/penguin.queue.v1.QueueService/WorkJobs"
    call = admin.jobs.WorkJobs(metadata=admin.client.authorization(method, None), timeout=20)
    await call.initial_metadata()
    start = pb.WorkStart(kinds=[admin.kind], max_in_flight=10, lease_duration=seconds(3600), worker_id="test")
    await call.write(pb.WorkJobsRequest(start=start))
    await call.read()
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    assert broken[0] == admin.kind
    leased: list[pb.LeasedJob] = []
    while len(leased) < len(ids):
        found = await admin.lease(wait_s=10)
        assert found, "they did not come back"
        leased += found
    assert sorted((each.job.id, each.job.lost_leases) for each in leased) == [(n, 0) for n in ids]


async def test_a_high_job_is_leased_first_though_more_lanes_are_known_than_there_is_room_for(
    admin: Admin, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LANES_MAX", 10)
    for _ in range(12):
        await admin.enqueue(uuid4(), 5, priority=pb.JOB_PRIORITY_LOW)
    (urgent,) = await admin.enqueue(tenant, priority=pb.JOB_PRIORITY_HIGH)
    assert [each.job.id for each in await admin.lease(1)] == [urgent]
    # Whoever there was no room for is found when others have had their turns.
    left = 60
    while left:
        leased = await admin.lease(7, wait_s=10)
        assert leased, f"{left} are not found"
        left -= len(leased)
        await admin.complete(*leased)


async def test_a_kind_is_as_long_as_may_be_and_no_longer(admin: Admin, tenant: UUID) -> None:
    longest = "k" * 200
    request = enqueue_request(tenant, new_job(kind=longest), new_job(kind=admin.kind))
    reply = await admin.client.call(admin.jobs.EnqueueJobs, request)
    assert all(each.job_id for each in reply.results)
    request.jobs[0].kind = longest + "k"
    with pytest.raises(Refused) as refused:
        await admin.client.call(admin.jobs.EnqueueJobs, request)
    assert refused.value.answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "jobs[0].kind" in refused.value.answer.fields
