"""Ties between jobs as clients have them: unique keys, ordering keys, waiting for others, batches."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, ref_of, seconds

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_testkit.calling import Refused, TierClient

READY, LEASED, COMPLETED, DEAD, CANCELLED, HELD = (
    pb.JOB_STATE_READY, pb.JOB_STATE_LEASED, pb.JOB_STATE_COMPLETED, pb.JOB_STATE_DEAD, pb.JOB_STATE_CANCELLED,
    pb.JOB_STATE_HELD,
)  # fmt: skip


class Tied:
    """A tenant of one test alone, and a worker of its kind."""

    def __init__(self, queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str) -> None:
        self.queue, self.stub, self.tenant, self.kind = queue, stub, tenant, kind

    async def results(self, *jobs: pb.NewJob) -> list[pb.EnqueueJobResult]:
        reply = await self.queue.call(self.stub.EnqueueJobs, enqueue_request(self.tenant, *jobs))
        return list(reply.results)

    async def enqueue(self, *jobs: dict[str, Any]) -> list[int]:
        results = await self.results(*(new_job(kind=self.kind, **fields) for fields in jobs))
        assert not [each.error for each in results if each.HasField("error")]
        return [each.job_id for each in results]

    async def batch(self, count: int, **fields: Any) -> pb.EnqueueBatchResponse:
        request = batch_request(self.tenant, self.kind, *[b"{}"] * count, **fields)
        reply: pb.EnqueueBatchResponse = await self.queue.call(self.stub.EnqueueBatch, request)
        return reply

    async def lease(self, max_jobs: int = 1, wait_s: float = 5) -> list[pb.LeaseRef]:
        request = lease_request(self.kind, max_jobs=max_jobs, wait_s=wait_s)
        return [ref_of(each) for each in (await self.queue.call(self.stub.LeaseJobs, request)).jobs]

    async def complete(self, *leases: pb.LeaseRef) -> None:
        await self.queue.call(self.stub.CompleteJobs, pb.CompleteJobsRequest(leases=leases))

    async def fail(self, lease: pb.LeaseRef, *, retryable: bool = False) -> None:
        failure = pb.JobFailure(lease=lease, error="test.failed", retryable=retryable)
        if retryable:
            failure.retry_delay.FromMilliseconds(0)
        await self.queue.call(self.stub.FailJobs, pb.FailJobsRequest(failures=[failure]))

    async def snooze(self, lease: pb.LeaseRef, delay_s: float) -> None:
        snooze = pb.JobSnooze(lease=lease, reason="later", delay=seconds(delay_s))
        await self.queue.call(self.stub.SnoozeJobs, pb.SnoozeJobsRequest(snoozes=[snooze]))

    async def cancel(self, *ids: int) -> None:
        request = pb.CancelJobsRequest(tenant_id=str(self.tenant), request_id=str(uuid4()), job_ids=ids)
        await self.queue.call(self.stub.CancelJobs, request)

    async def redrive(self, *ids: int) -> None:
        request = pb.RedriveJobsRequest(tenant_id=str(self.tenant), request_id=str(uuid4()), job_ids=ids)
        assert (await self.queue.call(self.stub.RedriveJobs, request)).redriven == len(ids)

    async def get(self, job_id: int) -> pb.Job:
        request = pb.GetJobRequest(tenant_id=str(self.tenant), job_id=job_id)
        reply: pb.GetJobResponse = await self.queue.call(self.stub.GetJob, request)
        return reply.job

    async def next(self) -> int:
        """Lease the next job and complete it."""
        (ref,) = await self.lease()
        await self.complete(ref)
        return ref.job_id


@pytest.fixture
def tied(queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str) -> Tied:
    return Tied(queue, stub, tenant, kind)


def unique(**fields: Any) -> dict[str, Any]:
    return {"unique": pb.UniqueKey(key="k", **fields)}


async def test_concurrent_enqueues_under_a_key_store_one_job(tied: Tied) -> None:
    calls = [tied.results(*(new_job(kind=tied.kind, **unique()) for _ in range(2))) for _ in range(10)]
    results = [each for found in await asyncio.gather(*calls) for each in found]
    assert len({each.job_id for each in results}) == 1
    assert sum(not each.duplicate for each in results) == 1
    assert len(await tied.lease(10)) == 1


async def test_a_repeated_call_has_the_first_answer(tied: Tied) -> None:
    (first,) = await tied.enqueue(unique())
    again = new_job(kind=tied.kind, **unique())
    (told,) = await tied.results(again)
    assert (told.job_id, told.duplicate) == (first, True)
    await tied.next()
    assert await tied.results(again) == [told]
    (fresh,) = await tied.results(new_job(kind=tied.kind, **unique()))
    assert (fresh.duplicate, fresh.job_id != first) == (False, True)


@pytest.mark.parametrize(
    ("holds_while", "held"),
    [((), [True, True, False]), ((READY,), [True, False, False]), ((COMPLETED,), [False, False, True])],
)
async def test_a_key_holds_where_its_job_says(tied: Tied, holds_while: tuple[Any, ...], held: list[bool]) -> None:
    found = []
    for steps in range(3):
        fields = {"unique": pb.UniqueKey(key=f"k{steps}", holds_while=holds_while)}
        await tied.enqueue(fields)
        if steps:
            (ref,) = await tied.lease()
        if steps == 2:
            await tied.complete(ref)
        (told,) = await tied.results(new_job(kind=tied.kind, **fields))
        found.append(told.duplicate)
        await tied.cancel(*[told.job_id])
        await tied.lease(10, wait_s=0)
    assert found == held


async def test_who_is_redriven_has_its_key_again_where_nobody_has_got_it_meanwhile(tied: Tied) -> None:
    (first,) = await tied.enqueue(unique())
    (lease,) = await tied.lease()
    await tied.fail(lease)
    await tied.redrive(first)
    (told,) = await tied.results(new_job(kind=tied.kind, **unique()))
    assert (told.job_id, told.duplicate) == (first, True)
    assert await tied.next() == first
    (later,) = await tied.enqueue(unique())
    assert later != first


async def test_who_is_redriven_runs_beside_who_has_got_its_key_meanwhile_and_takes_it_from_nobody(tied: Tied) -> None:
    (first,) = await tied.enqueue(unique())
    (lease,) = await tied.lease()
    await tied.fail(lease)
    (second,) = await tied.enqueue(unique())
    await tied.redrive(first)
    (told,) = await tied.results(new_job(kind=tied.kind, **unique()))
    assert (told.job_id, told.duplicate) == (second, True)
    both = {ref.job_id: ref for ref in await tied.lease(2)}
    assert set(both) == {first, second}
    # The end of the one that had it before is no matter to who has it now.
    await tied.complete(both[first])
    (told,) = await tied.results(new_job(kind=tied.kind, **unique()))
    assert (told.job_id, told.duplicate) == (second, True)
    await tied.complete(both[second])
    (third,) = await tied.enqueue(unique())
    assert third not in {first, second}


async def test_replacing_gives_a_waiting_job_the_new_payload(tied: Tied) -> None:
    (first,) = await tied.enqueue(unique())
    fields = unique(on_conflict=pb.ON_CONFLICT_REPLACE) | {"payload": b'{"n":2}'}
    assert await tied.enqueue(fields) == [first]
    request = lease_request(tied.kind, wait_s=5)
    (leased,) = (await tied.queue.call(tied.stub.LeaseJobs, request)).jobs
    assert (leased.job.id, leased.job.payload) == (first, b'{"n":2}')
    assert await tied.enqueue(fields | {"payload": b'{"n":3}'}) == [first]
    asked = pb.GetJobPayloadsRequest(tenant_id=str(tied.tenant), job_ids=[first])
    assert [each.payload for each in (await tied.queue.call(tied.stub.GetJobPayloads, asked)).payloads] == [b'{"n":2}']


async def test_a_key_is_in_order_through_retry_death_cancellation_and_redrive(tied: Tied) -> None:
    key = {"ordering_key": "k"}
    first, second, third, fourth = await tied.enqueue(key, key, key, key)
    assert [(await tied.get(each)).state for each in (first, second)] == [READY, HELD]
    stats = await tied.queue.call(tied.stub.GetQueueStats, pb.GetQueueStatsRequest(tenant_id=str(tied.tenant)))
    assert {(each.state, each.count) for each in stats.counts} == {(READY, 1), (HELD, 3)}
    (ref,) = await tied.lease(10)
    await tied.fail(ref, retryable=True)
    (ref,) = await tied.lease(10)
    assert ref.job_id == first
    await tied.fail(ref)
    (ref,) = await tied.lease(10)
    assert ref.job_id == second
    await tied.redrive(first)
    await tied.cancel(third)
    await tied.complete(ref)
    assert [await tied.next(), await tied.next()] == [first, fourth]


async def test_who_is_redriven_waits_for_who_is_in_hand_but_not_once_that_is_put_off(tied: Tied) -> None:
    key = {"ordering_key": "k"}
    first, second = await tied.enqueue(key, key)
    (ref,) = await tied.lease()
    await tied.fail(ref)
    (held,) = await tied.lease()
    await tied.redrive(first)
    await tied.snooze(held, 6 * 86400)
    assert await tied.next() == first
    # It was put off once, and still is.
    job = await tied.get(second)
    assert job.snoozes == 1
    assert job.run_at.ToDatetime(UTC) > datetime.now(UTC) + timedelta(days=5)


async def test_producers_and_workers_never_meet_within_a_key(tied: Tied) -> None:
    keys, each, total = 4, 12, 4 * 12 * 2
    in_hand: set[str] = set()
    orders: dict[str, list[int]] = {f"k{n}": [] for n in range(keys)}
    done = 0

    async def produce() -> None:
        for _ in range(each):
            await tied.enqueue(*({"ordering_key": f"k{n}"} for n in range(keys)))

    async def work() -> None:
        nonlocal done
        while done < total:
            for ref in await tied.lease(3, wait_s=1):
                key = (await tied.get(ref.job_id)).ordering_key
                assert key not in in_hand
                in_hand.add(key)
                await asyncio.sleep(0)
                in_hand.remove(key)
                orders[key].append(ref.job_id)
                await tied.complete(ref)
                done += 1

    async with asyncio.timeout(60):
        await asyncio.gather(produce(), produce(), *(work() for _ in range(3)))
    assert [len(set(order)) for order in orders.values()] == [each * 2] * keys


async def test_a_key_is_never_stuck_when_its_head_ends_as_the_next_comes(tied: Tied) -> None:
    key = {"ordering_key": "k"}
    await tied.enqueue(key)
    for _ in range(40):
        (ref,) = await tied.lease()
        await asyncio.gather(tied.complete(ref), tied.enqueue(key))
    assert await tied.next()


async def test_a_diamond_is_one_call(tied: Tied) -> None:
    top, left, right, bottom = await tied.enqueue(
        {}, {"waits_for_items": [0]}, {"waits_for_items": [0]}, {"waits_for_items": [1, 2]}
    )
    assert [(await tied.get(each)).waits for each in (top, left, bottom)] == [0, 1, 2]
    assert await tied.next() == top
    assert {await tied.next(), await tied.next()} == {left, right}
    assert await tied.next() == bottom
    (late,) = await tied.enqueue({"waits_for": [top, bottom]})
    assert await tied.next() == late


async def test_a_cancellation_goes_on_to_those_that_wait(tied: Tied) -> None:
    first, second, third, anyway = await tied.enqueue(
        {}, {"waits_for_items": [0]}, {"waits_for_items": [1]}, {"waits_for_items": [1], "run_if_failed": True}
    )
    await tied.cancel(first)
    assert await tied.next() == anyway
    assert [(await tied.get(each)).state for each in (second, third)] == [CANCELLED, CANCELLED]
    found = await tied.results(
        new_job(kind=tied.kind, waits_for=[second]), new_job(kind=tied.kind, waits_for=[2**62]),
        new_job(kind=tied.kind, waits_for_items=[0]),
    )  # fmt: skip
    assert [each.error.field for each in found] == ["waits_for[0]", "waits_for[0]", "waits_for_items[0]"]


async def test_who_waits_for_a_dead_letter_runs_when_it_is_redriven(tied: Tied) -> None:
    first, second = await tied.enqueue({}, {"waits_for_items": [0]})
    (ref,) = await tied.lease()
    await tied.fail(ref)
    assert await tied.lease(wait_s=1.2) == []
    assert (await tied.get(second)).state == HELD
    await tied.redrive(first)
    assert [await tied.next(), await tied.next()] == [first, second]


async def test_a_key_goes_on_when_one_that_its_next_job_waits_for_is_redriven(tied: Tied) -> None:
    key = {"ordering_key": "k"}
    awaited, waiting, bystander = await tied.enqueue(key, key | {"waits_for_items": [0]}, key)
    (ref,) = await tied.lease()
    assert ref.job_id == awaited
    await tied.fail(ref)
    assert await tied.lease(10, wait_s=1.2) == []
    await tied.redrive(awaited)
    assert [await tied.next() for _ in range(3)] == [awaited, waiting, bystander]


async def test_a_key_goes_on_though_the_redriven_one_is_awaited_by_way_of_another_and_one_is_in_hand(
    tied: Tied,
) -> None:
    key = {"ordering_key": "k"}
    awaited, between, hand, waiting = await tied.enqueue(
        key, {"waits_for_items": [0]}, key, key | {"waits_for_items": [1]}
    )
    (ref,) = await tied.lease()
    await tied.fail(ref)
    (held,) = await tied.lease()
    assert held.job_id == hand
    await tied.redrive(awaited)
    # It stands first, and is not let go while another is in hand, whatever else leaves.
    (gone,) = await tied.enqueue(key)
    await tied.cancel(gone)
    assert await tied.lease(10, wait_s=1.2) == []
    await tied.complete(held)
    assert [await tied.next() for _ in range(3)] == [awaited, between, waiting]


async def test_no_member_stands_behind_a_job_that_waits_for_its_batch(tied: Tied) -> None:
    first = await tied.batch(1, batch=pb.JobBatch(callback=pb.BatchCallback(kind=tied.kind, payload=b"{}"), more=True))
    callback = first.callback_job_id
    (between,) = await tied.enqueue({"waits_for": [callback], "ordering_key": "b"})
    behind, waiting = await tied.enqueue({"ordering_key": "b"}, {"waits_for_items": [0], "ordering_key": "k"})
    for key in ("b", "k"):
        with pytest.raises(Refused) as refused:
            await tied.batch(1, ordering_key=key, batch=pb.JobBatch(callback_job_id=callback, more=True))
        assert refused.value.answer.code == grpc.StatusCode.FAILED_PRECONDITION
        assert refused.value.answer.reason == "STATE_CONFLICT"
    last = await tied.batch(1, ordering_key="free", batch=pb.JobBatch(callback_job_id=callback))
    assert {await tied.next(), await tied.next()} == {first.first_job_id, last.first_job_id}
    assert [await tied.next() for _ in range(4)] == [callback, between, behind, waiting]


async def test_an_item_waits_for_earlier_ones_only(tied: Tied) -> None:
    with pytest.raises(Refused) as refused:
        await tied.results(new_job(kind=tied.kind, waits_for_items=[0]))
    assert refused.value.answer.code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_batch_of_three_calls_runs_its_callback_once(tied: Tied) -> None:
    callback = pb.BatchCallback(kind=tied.kind, payload=b'{"over":true}')
    first = await tied.batch(2, batch=pb.JobBatch(callback=callback, more=True))
    number = first.callback_job_id
    refs = [*await tied.lease(), *await tied.lease()]
    await tied.complete(*refs)
    assert await tied.lease(wait_s=1.2) == []
    assert (await tied.get(number)).state == HELD
    await tied.batch(1, batch=pb.JobBatch(callback_job_id=number, more=True))
    last = await tied.batch(2, batch=pb.JobBatch(callback_job_id=number))
    with pytest.raises(Refused) as refused:
        await tied.batch(1, batch=pb.JobBatch(callback_job_id=number))
    assert refused.value.answer.code == grpc.StatusCode.FAILED_PRECONDITION
    await tied.cancel(last.first_job_id)
    one, two = *await tied.lease(), *await tied.lease()
    await tied.complete(one)
    await tied.fail(two)
    (ref,) = await tied.lease(10)
    assert ref.job_id == number
    progress = (await tied.get(number)).batch
    assert (progress.total, progress.completed, progress.dead, progress.cancelled) == (5, 3, 1, 1)
    await tied.complete(ref)
    await tied.redrive(two.job_id)
    assert await tied.next() == two.job_id
    assert await tied.lease(wait_s=1.2) == []
    progress = (await tied.get(number)).batch
    assert (progress.completed, progress.dead, progress.open) == (4, 0, False)
