"""WorkJobs: a worker's stream. Jobs come as places are free, at once where the stream waits, and words go back by it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.queue.tests.rows import batch_request, enqueue_request, lease_request, new_job, ref_of, seconds

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_testkit.calling import TierClient

METHOD = "/penguin.queue.v1.QueueService/WorkJobs"
PATIENCE_S = 10.0


class Worker:
    """One stream of work, and what has come by it."""

    def __init__(self, call: Any, max_in_flight: int) -> None:
        self.call, self.max_in_flight = call, max_in_flight
        self.held: dict[int, int] = {}
        self.payloads: dict[int, bytes] = {}
        self._numbers = itertools.count(1)

    async def reply(self) -> pb.WorkJobsResponse:
        async with asyncio.timeout(PATIENCE_S):
            reply: Any = await self.call.read()
        assert reply is not grpc.aio.EOF
        for lot in reply.jobs:
            self.held |= dict.fromkeys(lot.job_ids, lot.lease_token)
            self.payloads |= dict(zip(lot.job_ids, lot.payloads, strict=True))
        assert len(self.held) <= self.max_in_flight
        return reply  # type: ignore[no-any-return]

    async def until(self, count: int) -> None:
        while len(self.held) < count:
            await self.reply()

    async def came(self, over: Callable[[], bool]) -> bool:
        """Whether a job came before it was over. A read that is cancelled ends the stream: meanwhile it is left to wait."""
        reading = asyncio.create_task(self.until(1))
        while not reading.done() and not over():
            await asyncio.wait({reading}, timeout=0.2)
        if reading.done():
            await reading
            return True
        reading.cancel()
        return False

    def leases(self, ids: Sequence[int]) -> pb.Leases:
        return pb.Leases(job_ids=ids, lease_tokens=[self.held[job_id] for job_id in ids])

    async def say(self, **words: Any) -> pb.WorkAnswer:
        number = next(self._numbers)
        await self.call.write(pb.WorkJobsRequest(number=number, **words))
        while True:
            reply = await self.reply()
            if reply.HasField("answer"):
                assert reply.answer.number == number
                return reply.answer

    async def complete(self, ids: Sequence[int]) -> pb.WorkAnswer:
        leases = self.leases(ids)
        for job_id in ids:
            del self.held[job_id]
        return await self.say(completed=leases)


@contextlib.asynccontextmanager
async def working(
    queue: TierClient, stub: QueueServiceStub, *kinds: str, places: int = 10, lease_s: float = 30
) -> AsyncIterator[Worker]:
    token = queue.tokens.token("queue", platform=True, methods=[METHOD], scopes=["jobs.work"])
    open_stream: Any = stub.WorkJobs
    call = open_stream(metadata=(("authorization", f"Bearer {token}"),))
    start = pb.WorkStart(kinds=kinds, max_in_flight=places, lease_duration=seconds(lease_s), worker_id="test")
    await call.initial_metadata()
    await call.write(pb.WorkJobsRequest(start=start))
    worker = Worker(call, places)
    assert not (await worker.reply()).jobs
    try:
        yield worker
    finally:
        call.cancel()


async def enqueue(queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str, count: int) -> list[int]:
    payloads = [b'{"n":%d}' % n for n in range(count)]
    reply = await queue.call(stub.EnqueueBatch, batch_request(tenant, kind, *payloads))
    return list(range(reply.first_job_id, reply.first_job_id + reply.count))


async def state(queue: TierClient, stub: QueueServiceStub, tenant: UUID, job_id: int) -> pb.Job:
    reply: pb.GetJobResponse = await queue.call(stub.GetJob, pb.GetJobRequest(tenant_id=str(tenant), job_id=job_id))
    return reply.job


async def test_places_are_filled_and_freed_by_words(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    ids = await enqueue(queue, stub, tenant, kind, 25)
    async with working(queue, stub, kind, places=10) as worker:
        done: list[int] = []
        while len(done) < 25:
            await worker.until(1)
            now = list(worker.held)
            answer = await worker.complete(now)
            assert (answer.completed, list(answer.lost_job_ids)) == (len(now), [])
            done += now
    assert sorted(done) == ids
    assert worker.payloads == {job_id: b'{"n":%d}' % n for n, job_id in enumerate(ids)}
    assert (await state(queue, stub, tenant, ids[0])).state == pb.JOB_STATE_COMPLETED


@pytest.mark.parametrize("single", [False, True])
async def test_a_waiting_stream_is_handed_jobs_as_they_are_stored(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str, single: bool
) -> None:
    async with working(queue, stub, kind) as worker:
        for _ in range(20):
            await asyncio.sleep(0.02)
            if single:
                request = enqueue_request(tenant, new_job(kind=kind))
                (result,) = (await queue.call(stub.EnqueueJobs, request)).results
                ids = [result.job_id]
            else:
                ids = await enqueue(queue, stub, tenant, kind, 3)
            await worker.until(len(ids))
            assert sorted(worker.held) == ids
            job = await state(queue, stub, tenant, ids[0])
            assert (job.state, job.attempts, job.lost_leases) == (pb.JOB_STATE_LEASED, 0, 0)
            assert (await worker.complete(ids)).completed == len(ids)


async def test_each_word_does_what_its_call_does(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    ids = await enqueue(queue, stub, tenant, kind, 5)
    async with working(queue, stub, kind, places=5) as worker:
        await worker.until(5)
        token = worker.held[ids[0]]
        refs = [pb.LeaseRef(job_id=job_id, lease_token=token) for job_id in ids]
        answer = await worker.say(
            failures=[
                pb.JobFailure(lease=refs[0], error="test.x", retryable=True, retry_delay=seconds(3600)),
                pb.JobFailure(lease=refs[1], error="test.x"),
            ],
            snoozes=[pb.JobSnooze(lease=refs[2], delay=seconds(3600))],
            extended=pb.Leases(job_ids=ids[3:], lease_tokens=[token]),
        )
        assert (answer.retried, answer.dead, answer.snoozed, list(answer.lost_job_ids)) == (1, 1, 1, [])
        assert answer.leased_until.seconds > 0
        # A token that is not the lease's moves nothing, whatever the word.
        stale = pb.Leases(job_ids=[ids[3]], lease_tokens=[token % 1000 + 1])
        for words in ({"completed": stale}, {"extended": stale}, {"released": stale}):
            assert list((await worker.say(**words)).lost_job_ids) == [ids[3]]
        assert (await state(queue, stub, tenant, ids[3])).state == pb.JOB_STATE_LEASED
        released = await worker.say(released=pb.Leases(job_ids=ids[4:], lease_tokens=[token]))
        assert released.released == 1
    job = await state(queue, stub, tenant, ids[4])
    assert (job.attempts, job.lost_leases, job.snoozes) == (0, 0, 0)


async def test_a_text_that_cannot_be_stored_costs_no_other_word(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    ids = await enqueue(queue, stub, tenant, kind, 5)
    async with working(queue, stub, kind, places=5) as worker:
        await worker.until(5)
        failed, nameless, off, done, told = [
            pb.LeaseRef(job_id=job_id, lease_token=worker.held[job_id]) for job_id in ids
        ]
        answer = await worker.say(
            failures=[
                pb.JobFailure(lease=failed, error="test\0.x", message="a\0b", retryable=True),
                pb.JobFailure(lease=nameless, error="\0", retryable=True),
            ],
            snoozes=[pb.JobSnooze(lease=off, delay=seconds(3600), reason="early\0")],
            completed=worker.leases([done.job_id]),
            results=[pb.JobResult(job_id=done.job_id, result="reports\0/7")],
            extended=worker.leases([told.job_id]),
            progress=[pb.JobProgress(job_id=told.job_id, done=1, note="page\0")],
        )
    assert (answer.retried, answer.snoozed, answer.completed, list(answer.lost_job_ids)) == (2, 1, 1, [])
    jobs = [await state(queue, stub, tenant, job_id) for job_id in ids]
    assert [job.last_error for job in jobs[:3]] == ["test.x", "unnamed", "early"]
    assert (jobs[3].state, jobs[3].result, jobs[4].progress.note) == (pb.JOB_STATE_COMPLETED, "", "page")


async def test_words_that_make_no_sense_end_the_stream_with_the_reason(
    queue: TierClient, stub: QueueServiceStub, kind: str
) -> None:
    async def refused(*requests: pb.WorkJobsRequest) -> grpc.aio.AioRpcError:
        token = queue.tokens.token("queue", platform=True, methods=[METHOD], scopes=["jobs.work"])
        open_stream: Any = stub.WorkJobs
        call = open_stream(metadata=(("authorization", f"Bearer {token}"),))

        async def talk() -> None:
            for request in requests:
                await call.write(request)
                await call.read()
            await call.read()

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk()
        return error.value

    start = pb.WorkJobsRequest(
        start=pb.WorkStart(kinds=[kind], max_in_flight=1, lease_duration=seconds(9), worker_id="w")
    )
    uneven = pb.WorkJobsRequest(completed=pb.Leases(job_ids=[1, 2, 3], lease_tokens=[1, 2]))
    for requests, words in (
        ([uneven], "begins with its start"), ([start, start], "started once"), ([start, uneven], "one token"),
    ):  # fmt: skip
        error = await refused(*requests)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in str(error.details())


async def test_jobs_a_worker_left_without_a_word_come_back_with_their_lease(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    (job_id,) = await enqueue(queue, stub, tenant, kind, 1)
    async with working(queue, stub, kind, lease_s=1) as worker:
        await worker.until(1)
    async with working(queue, stub, kind) as second:
        await second.until(1)
        assert list(second.held) == [job_id]
        assert (await state(queue, stub, tenant, job_id)).lost_leases == 1
        late = pb.Leases(job_ids=[job_id], lease_tokens=[worker.held[job_id]])
        assert list((await second.say(completed=late)).lost_job_ids) == [job_id]
        assert second.held[job_id] != worker.held[job_id]


async def test_streams_and_calls_share_the_work_without_doubling_any(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    seen: list[int] = []

    async def stream() -> None:
        async with working(queue, stub, kind, places=7) as worker:
            while len(seen) < 300:
                if not await worker.came(lambda: len(seen) >= 300):
                    return
                now = list(worker.held)
                await worker.complete(now)
                seen.extend(now)

    async def calls() -> None:
        while len(seen) < 300:
            reply = await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=5, wait_s=0.2))
            refs = [pb.LeaseRef(job_id=each.job.id, lease_token=each.lease_token) for each in reply.jobs]
            if refs:
                assert (await queue.call(stub.CompleteJobs, pb.CompleteJobsRequest(leases=refs))).completed == len(refs)
                seen.extend(ref.job_id for ref in refs)

    async def produce() -> None:
        for n in range(30):
            if n % 2:
                await enqueue(queue, stub, tenant, kind, 10)
            else:
                jobs = [new_job(kind=kind, request_id=str(uuid4())) for _ in range(10)]
                await queue.call(stub.EnqueueJobs, enqueue_request(tenant, *jobs))

    async with asyncio.timeout(60):
        await asyncio.gather(stream(), stream(), calls(), produce())
    assert len(seen) == len(set(seen)) == 300


async def test_small_leases_at_once_are_each_given_their_own(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    await queue.call(stub.EnqueueBatch, batch_request(tenant, kind, *[b"{}"] * 30))

    async def lease(n: int) -> tuple[int, pb.LeaseJobsResponse]:
        request = lease_request(kind, max_jobs=1 + n % 3, lease_s=20 + n)
        request.worker_id = f"w{n}"
        return n, await queue.call(stub.LeaseJobs, request)

    replies = await asyncio.gather(*(lease(n) for n in range(20)))
    given = [leased for _, reply in replies for leased in reply.jobs]
    assert len(given) == len({leased.job.id for leased in given}) == 30
    for n, reply in replies:
        assert len(reply.jobs) <= 1 + n % 3
        assert len({leased.lease_token for leased in reply.jobs}) <= 1
        for leased in reply.jobs:
            left = leased.job.leased_until.ToDatetime(UTC) - datetime.now(UTC)
            assert 10 + n < left.total_seconds() <= 20 + n
    tokens = [reply.jobs[0].lease_token for _, reply in replies if reply.jobs]
    assert len(set(tokens)) == len(tokens)
    done = await queue.call(stub.CompleteJobs, pb.CompleteJobsRequest(leases=map(ref_of, given)))
    assert done.completed == 30


async def test_jobs_leased_for_a_caller_who_has_gone_are_ready_again(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    waiting = [asyncio.ensure_future(queue.call(stub.LeaseJobs, lease_request(kind, wait_s=20))) for _ in range(5)]
    await asyncio.sleep(0.2)
    for call in waiting[:4]:
        call.cancel()
    await queue.call(stub.EnqueueBatch, batch_request(tenant, kind, *[b"{}"] * 3))
    found = list((await waiting[4]).jobs)
    async with asyncio.timeout(20):
        while len(found) < 3:
            found += (await queue.call(stub.LeaseJobs, lease_request(kind, wait_s=5))).jobs
    assert not any(leased.job.lost_leases for leased in found)
