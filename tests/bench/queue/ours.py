"""Our queue's driver: through gRPC only, as any client, with tokens, tenants and durability as they are in production.

`python -m tests.bench.queue.ours <scenario> <count>`; addresses and credential come from the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

import orjson
import psutil
import uvloop
from tests.bench import spending
from tests.bench.queue.peers.measuring import IN_FLIGHT, PAUSE_S, PER_CALL, WARM_UP, Payload, at_once, payloads

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis import memory
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.jobs import Terms
from penguin_orchestrator.platform import Penguin

TERMS = Terms("bench.noop")
# Streams of the one worker process, and the jobs that each may have in hand.
STREAMS, PLACES = 2, 3000
TIMEOUT_S = 120.0
UNMEASURED = 10


class Ours:
    """The four scenarios, as a producer with the orchestrator library and a worker with a stream have them."""

    def __init__(self, penguin: Penguin) -> None:
        self._penguin = penguin
        self._tenant = uuid4()

    async def bulk(self, count: int, jobs: list[Payload]) -> dict[str, float]:
        """Jobs a second by full batches."""
        parts = [jobs[first : min(first + PER_CALL, count)] for first in range(0, count, PER_CALL)]
        callers = int(os.environ.get("BENCH_CALLERS", "4"))
        calls = [partial(self._penguin.jobs.enqueue_many, self._tenant, TERMS, part) for part in parts]
        return {"rate": count / await at_once(calls, callers)}

    async def drain(self, count: int, _: list[Payload]) -> dict[str, float]:
        """Jobs a second, from the opening of the streams to the last acknowledged completion."""
        left = Left(count)
        started = time.perf_counter()
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(self._stream(PLACES)) for _ in range(STREAMS)]
            working = [asyncio.create_task(_work(stream, left)) for stream in streams]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(float(os.environ.get("BENCH_LIMIT_S", "20"))):
                    await left.none.wait()
            seconds = time.perf_counter() - started
            await _ended(working)
        return {"rate": (count - left.count) / seconds}

    async def single(self, count: int, jobs: list[Payload]) -> dict[str, float]:
        """Jobs a second, each a call of its own."""
        calls = [partial(self._penguin.jobs.enqueue, self._tenant, TERMS, job) for job in jobs[: count + WARM_UP]]
        await at_once(calls[:WARM_UP], IN_FLIGHT)
        return {"rate": count / await at_once(calls[WARM_UP:], IN_FLIGHT)}

    async def idle(self, count: int, jobs: list[Payload]) -> dict[str, float]:
        """Milliseconds from an enqueue to its handler's start, a stream waiting for it."""
        begun: asyncio.Queue[float] = asyncio.Queue()
        async with self._stream(10) as stream:
            working = asyncio.create_task(_work(stream, Left(count + UNMEASURED), begun))
            measured = await idle_waits(self._penguin, begun, jobs[: count + UNMEASURED])
            await _ended([working])
        return measured

    @contextlib.asynccontextmanager
    async def _stream(self, places: int) -> AsyncIterator[Any]:
        queue = self._penguin.tiers["queue"]
        async with queue.conversation(queue.stub(QueueServiceStub).WorkJobs, timeout=TIMEOUT_S) as stream:
            start = pb.WorkStart(kinds=[TERMS.kind], max_in_flight=places, worker_id="bench")
            start.lease_duration.FromSeconds(60)
            await stream.write(pb.WorkJobsRequest(start=start))
            await stream.read()
            yield stream


async def idle_waits(penguin: Penguin, begun: asyncio.Queue[float], jobs: Sequence[Payload]) -> dict[str, float]:
    """Milliseconds from the enqueue of each of these to when it is said to have `begun`, one after the other; the first
    UNMEASURED do not count."""
    tenant, waits = uuid4(), []
    for job in jobs:
        await asyncio.sleep(PAUSE_S)
        started = time.perf_counter()
        await penguin.jobs.enqueue(tenant, TERMS, job)
        waits.append((await begun.get() - started) * 1000)
    measured = waits[UNMEASURED:]
    return {"p50": statistics.median(measured), "p99": statistics.quantiles(measured, n=100)[98]}


@dataclass
class Left:
    """Jobs that are not acknowledged yet."""

    count: int
    none: asyncio.Event = field(default_factory=asyncio.Event)

    def less(self, done: int) -> None:
        """So many are."""
        self.count -= done
        if self.count <= 0:
            self.none.set()


async def _work(stream: Any, left: Left, begun: asyncio.Queue[float] | None = None) -> None:
    """Handle what comes, and say that it is done."""
    while True:
        reply = await stream.read()
        left.less(reply.answer.completed)
        for lot in reply.jobs:
            for payload in lot.payloads:
                if begun is not None:
                    begun.put_nowait(time.perf_counter())
                await _noop(orjson.loads(payload))
            done = pb.Leases(job_ids=lot.job_ids, lease_tokens=[lot.lease_token])
            await stream.write(pb.WorkJobsRequest(number=1, completed=done))


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


async def _noop(_: Payload) -> None:
    return None


async def _run(scenario: str, count: int) -> None:
    async with Penguin.connect(PlatformConfig()) as penguin:
        ours = Ours(penguin)
        measured = {"bulk": ours.bulk, "drain": ours.drain, "single": ours.single, "idle": ours.idle}[scenario]
        # Made beforehand: what they cost is not the queue's.
        jobs = payloads(count + WARM_UP + UNMEASURED)
        memory.settle()  # as every process of the platform does
        before = spending.of(psutil.Process())
        answer = await measured(count, jobs)
        print(json.dumps(answer | {"client_s": spending.of(psutil.Process()) - before}), flush=True)


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1], int(sys.argv[2])))
