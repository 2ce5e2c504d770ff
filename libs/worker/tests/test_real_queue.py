"""The worker library against the real Queue: streams, words, leases of a handler that hogs, and a stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest
from libs.worker.tests.conftest import Configure
from libs.worker.tests.handlers import Gate, nothing
from libs.worker.tests.test_real_tiers import SignedTokens, jobs
from libs.worker.tests.waiting import at_work, eventually, until

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_devstack.valkey import ValkeyServer
from penguin_orchestrator.clients import Tier, connect
from penguin_orchestrator.errors import TierError
from penguin_queue.app import serving
from penguin_queue.config import QueueConfig
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory
from penguin_worker import lines, wording
from penguin_worker.jobs import Done, Job, Reject, Retry, Snooze
from penguin_worker.kinds import Kind
from penguin_worker.streaming import WorkStream
from penguin_worker.threads import in_thread

HOG = Path(__file__).with_name("hogging.py")


@dataclass
class Side:
    """One tenant with a kind of its own at the real queue."""

    queue: Tier
    kind: str = field(default_factory=lambda: f"k{uuid4().hex}")
    tenant: UUID = field(default_factory=uuid4)

    async def put(self, count: int, **fields: object) -> list[int]:
        request = pb.EnqueueBatchRequest(
            tenant_id=str(self.tenant), request_id=str(uuid4()), kind=self.kind, payloads=[b"{}"] * count,
            **fields,  # type: ignore[arg-type]
        )  # fmt: skip
        reply = await self.queue.call(self.queue.stub(QueueServiceStub).EnqueueBatch, request)
        return list(range(reply.first_job_id, reply.first_job_id + count))

    async def jobs(self) -> list[pb.Job]:
        return await jobs({"queue": self.queue}, self.tenant)

    async def completed(self) -> bool:
        return {job.state for job in await self.jobs()} == {pb.JOB_STATE_COMPLETED}


@pytest.fixture(scope="module")
async def queue(databases: Databases, valkey: ValkeyServer, tokens: TokenFactory) -> AsyncIterator[Tier]:
    database = await databases.clone("queue")
    settings = {
        "QUEUE_DB_URL": database.app_url,
        "QUEUE_MAINTENANCE_DB_URL": database.maintenance_url,
        "QUEUE_LISTEN": "127.0.0.1:0",
        "QUEUE_POOL_MAX": 8,
        "QUEUE_REDIS_URL": valkey.url,
        "PENGUIN_JWKS_PATH": tokens.jwks_path,
        "PENGUIN_DRAIN_SECONDS": 0.1,
    }
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(serving(QueueConfig(**settings)))  # type: ignore[arg-type]
        addresses = {"queue": f"127.0.0.1:{running.port}"}
        yield (await stack.enter_async_context(connect(addresses, SignedTokens(tokens))))["queue"]


@pytest.fixture
def side(queue: Tier) -> Side:
    return Side(queue)


async def test_every_job_is_done_once_across_streams(
    side: Side, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LIFE_S", 0.2)
    done: list[int] = []

    async def handle(job: Job) -> None:
        await asyncio.sleep(0.01)
        done.append(job.id)

    waiting = await side.put(300)
    async with at_work(side.queue, configure(concurrency=50), **{side.kind: Kind(handle)}):
        # Some are handed over as they are stored.
        for _ in range(10):
            waiting += await side.put(3)
            await asyncio.sleep(0.05)
        await until(side.completed)
    assert sorted(done) == waiting
    # A lease that the queue was just taking when its stream was left may be lost unseen: then it has run out first.
    assert {(job.attempts, job.snoozes) for job in await side.jobs()} == {(0, 0)}


async def test_what_is_said_of_a_job_is_what_the_queue_keeps(side: Side, configure: Configure) -> None:
    done, failed, dead, later = await side.put(4)
    said = {failed: Retry("smtp.451", 60.0), dead: Reject("payload_invalid"), later: Snooze("early", 60.0)}

    async def handle(job: Job) -> None:
        if job.id in said:
            raise said[job.id]

    async with at_work(side.queue, configure(), **{side.kind: Kind(handle)}) as worker:
        await eventually(lambda: worker.in_hand == 0)
        await until(lambda: _settled(side, 4))
    kept = {job.id: job for job in await side.jobs()}
    assert kept[done].state == pb.JOB_STATE_COMPLETED
    assert (kept[failed].state, kept[failed].attempts, kept[failed].last_error) == (pb.JOB_STATE_READY, 1, "smtp.451")
    assert (kept[dead].state, kept[dead].last_error) == (pb.JOB_STATE_DEAD, "payload_invalid")
    assert (kept[later].state, kept[later].snoozes, kept[later].attempts) == (pb.JOB_STATE_READY, 1, 0)


async def test_progress_results_and_messages_reach_the_queue_from_threads_too(side: Side, configure: Configure) -> None:
    walked, failed, slow = await side.put(3)
    told = threading.Event()

    def blocking(job: Job) -> Done | None:
        if job.id == failed:
            raise Reject("report.empty", "there are no pages")
        if job.id == slow:
            job.progress(1)
            job.progress(3, 4, "page [3]\0")
            assert told.wait(15)
            return None
        return Done("reports/7")

    async with at_work(side.queue, configure(lease_s=1.0), **{side.kind: Kind(in_thread(blocking))}):
        try:
            await until(lambda: _tells(side, slow))
        finally:
            told.set()
        await until(lambda: _settled(side, 3))
    kept = {job.id: job for job in await side.jobs()}
    assert [kept[n].result for n in (walked, slow)] == ["reports/7", ""]
    request = pb.ListJobAttemptsRequest(tenant_id=str(side.tenant), job_id=failed)
    (attempt,) = (await side.queue.call(side.queue.stub(QueueServiceStub).ListJobAttempts, request)).attempts
    assert (attempt.error, attempt.message, attempt.worker_id) == ("report.empty", "there are no pages", "test")


async def _tells(side: Side, job_id: int) -> bool:
    told = {job.id: job.progress for job in await side.jobs()}[job_id]
    return (told.done, told.total, told.note) == (3, 4, "page [3]")


async def _settled(side: Side, count: int) -> bool:
    seen = await side.jobs()
    return sum(job.state != pb.JOB_STATE_LEASED and bool(job.attempts + job.snoozes or job.finished_at.seconds)
               for job in seen) == count  # fmt: skip


@pytest.mark.parametrize("message", ["m" * 1001, "a\0b"])
async def test_a_word_that_is_refused_takes_no_other_with_it(
    side: Side, configure: Configure, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    # As a worker would that knows another contract.
    monkeypatch.setattr(wording, "MESSAGE_MAX", 2000)
    monkeypatch.setattr("penguin_worker.wording.storable", str)
    ids, runs = await side.put(21), list[int]()

    async def handle(job: Job) -> None:
        runs.append(job.id)
        if job.id == ids[0]:
            failure = Reject("test.bad")
            failure.message = message
            raise failure
        raise Snooze("early", 600.0)

    async with at_work(side.queue, configure(concurrency=50, lease_s=5.0), **{side.kind: Kind(handle)}) as worker:
        await eventually(lambda: len(runs) == 21 and worker.in_hand == 0)
    bad, *others = sorted(await side.jobs(), key=lambda job: job.id)
    assert (bad.state, sorted(runs)) == (pb.JOB_STATE_DEAD, ids)
    assert {(job.snoozes, job.lost_leases, job.last_error) for job in others} == {(1, 0, "early")}


async def test_words_end_a_stream_and_those_behind_them_are_told_that_it_has_ended(side: Side) -> None:
    start = pb.WorkStart(kinds=[side.kind], max_in_flight=1, worker_id="test")
    start.lease_duration.FromSeconds(5)
    right, wrong = pb.WorkJobsRequest(), pb.WorkJobsRequest(completed=pb.Leases(job_ids=[1, 2, 3], lease_tokens=[1, 2]))
    async with WorkStream.opened(side.queue, start) as stream:

        async def read() -> None:
            async for _ in stream.lots():
                raise AssertionError

        said = asyncio.gather(*map(stream.say, (right, wrong, pb.WorkJobsRequest())), return_exceptions=True)
        with pytest.raises(TierError):
            await asyncio.wait_for(read(), 5)
        first, second, third = await said
    assert isinstance(first, pb.WorkAnswer)
    assert isinstance(second, TierError)
    assert isinstance(third, TierError)
    assert (second.code, third.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "STREAM_ENDED")


async def test_leases_are_kept_for_longer_than_they_last(side: Side, configure: Configure) -> None:
    gate = Gate()
    await side.put(3)
    async with at_work(side.queue, configure(lease_s=1.0), **{side.kind: Kind(gate.handle)}):
        await eventually(lambda: len(gate.begun) == 3)
        await asyncio.sleep(2.5)
        gate.open.set()
        await until(side.completed)
    assert len(gate.begun) == 3
    assert [job.lost_leases for job in await side.jobs()] == [0, 0, 0]


async def test_a_cancelled_job_stops_its_handler_and_never_runs_again(side: Side, configure: Configure) -> None:
    gate = Gate()
    first, second = await side.put(2)
    async with at_work(side.queue, configure(lease_s=1.0), **{side.kind: Kind(gate.handle)}):
        await eventually(lambda: len(gate.begun) == 2)
        request = pb.CancelJobsRequest(tenant_id=str(side.tenant), request_id=str(uuid4()), job_ids=[first])
        reply = await side.queue.call(side.queue.stub(QueueServiceStub).CancelJobs, request)
        assert list(reply.cancelling_job_ids) == [first]
        await until(lambda: _stands(side, first, pb.JOB_STATE_CANCELLED))
        gate.open.set()
        await until(lambda: _stands(side, second, pb.JOB_STATE_COMPLETED))
    assert len(gate.begun) == 2


async def _stands(side: Side, job_id: int, state: int) -> bool:
    return {job.id: int(job.state) for job in await side.jobs()}[job_id] == state


async def test_a_stop_hands_back_what_is_not_done(side: Side, configure: Configure) -> None:
    gate = Gate()
    await side.put(6)
    async with at_work(side.queue, configure(concurrency=4, drain_s=0.4), **{side.kind: Kind(gate.handle)}):
        await eventually(lambda: len(gate.begun) == 4)
    assert {job.state for job in await side.jobs()} == {pb.JOB_STATE_READY}
    # Those that were never begun are as they were.
    assert sorted(job.snoozes for job in await side.jobs()) == [0, 0, 1, 1, 1, 1]
    async with at_work(side.queue, configure(), **{side.kind: Kind(nothing)}):
        await until(side.completed)


@contextlib.asynccontextmanager
async def hogging(
    queue: Tier, tokens: TokenFactory, seconds: float, ends: int = 0, **env: str
) -> AsyncIterator[asyncio.StreamReader]:
    """A worker process whose handler of "hog" blocks for so long, and how it ends; what it prints."""
    methods = [f"/penguin.queue.v1.QueueService/{name}" for name in ("WorkJobs", "ExtendLeases")]
    given = {each: tokens.token("queue", scopes=["jobs.work"], platform=True, methods=[each]) for each in methods}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HOG), queue.address, str(seconds),
        env=os.environ | env | {"TOKENS": json.dumps(given)},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == ends
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_handler_that_hogs_the_event_loop_keeps_its_lease(
    queue: Tier, configure: Configure, tokens: TokenFactory
) -> None:
    side = Side(queue, kind="hog")
    (job_id,) = await side.put(1)
    # Three leases long.
    async with hogging(queue, tokens, 3.0) as printed:
        assert await asyncio.wait_for(printed.readline(), 10) == f"begun {job_id} 0\n".encode()
        async with at_work(queue, configure(), hog=Kind(nothing)):
            # Nobody else is given it.
            await asyncio.sleep(2.5)
            (job,) = await side.jobs()
            assert (job.state, job.lost_leases) == (pb.JOB_STATE_LEASED, 0)
        await until(side.completed)
    (job,) = await side.jobs()
    assert (job.lost_leases, job.attempts, job.snoozes) == (0, 0, 0)


async def test_a_process_that_hangs_ends_and_gives_its_jobs_up(
    queue: Tier, configure: Configure, tokens: TokenFactory
) -> None:
    side = Side(queue, kind="hog")
    (job_id,) = await side.put(1)
    async with hogging(queue, tokens, 60.0, os.EX_SOFTWARE, STUCK_S="1") as printed:
        assert await asyncio.wait_for(printed.readline(), 10) == f"begun {job_id} 0\n".encode()
        async with at_work(queue, configure(), hog=Kind(nothing)):
            await until(side.completed)
    (job,) = await side.jobs()
    assert job.lost_leases == 1
