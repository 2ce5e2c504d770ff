"""Our queue's driver: through gRPC only, as any client, with tokens, tenants and durability as they are in production.

`python -m tests.bench.queue.ours <scenario> <count>`; addresses and credential come from the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import uvloop
from tests.bench.queue.peers.measuring import IN_FLIGHT, PAUSE_S, PER_CALL, WARM_UP, Payload, at_once, payloads

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis import memory
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin

KIND = "bench.noop"
# Lease-and-complete loops of the one worker process: while one waits for a completion another leases.
LOOPS = int(os.environ.get("PEER_CONCURRENCY", "2"))
TIMEOUT_S = 30.0
UNMEASURED = 10


class Ours:
    """The four scenarios on today's API."""

    def __init__(self, queue: Tier) -> None:
        self._queue = queue
        self._stub = queue.stub(QueueServiceStub)
        self._tenant = str(uuid4())

    async def bulk(self, count: int) -> dict[str, float]:
        """Jobs a second by full EnqueueJobs calls."""
        jobs = payloads(count)
        parts = [jobs[first : first + PER_CALL] for first in range(0, count, PER_CALL)]
        callers = int(os.environ.get("BENCH_CALLERS", "4"))
        return {"rate": count / await at_once([partial(self._enqueue, part) for part in parts], callers)}

    async def drain(self, count: int) -> dict[str, float]:
        """Jobs a second, from the first lease to the last acknowledged completion."""
        ends = time.perf_counter() + float(os.environ.get("BENCH_LIMIT_S", "20"))
        leased = done = 0

        async def loop() -> None:
            nonlocal leased, done
            while leased < count and time.perf_counter() < ends:
                # None may be left for a moment: another loop has them locked.
                jobs = await self._lease(PER_CALL, wait_ms=0)
                leased += len(jobs)
                for job in jobs:
                    await _noop(json.loads(job.job.payload))
                if jobs:
                    completed = await self._complete(jobs)
                    done += completed  # not in one step: that would read `done` before it waits

        started = time.perf_counter()
        await asyncio.gather(*(loop() for _ in range(LOOPS)))
        return {"rate": done / (time.perf_counter() - started)}

    async def single(self, count: int) -> dict[str, float]:
        """Jobs a second, each a call of its own."""
        calls = [partial(self._enqueue, [job]) for job in payloads(count + WARM_UP)]
        await at_once(calls[:WARM_UP], IN_FLIGHT)
        return {"rate": count / await at_once(calls[WARM_UP:], IN_FLIGHT)}

    async def idle(self, count: int) -> dict[str, float]:
        """Milliseconds from an enqueue to its handler's start, a lease call waiting for it."""
        begun: asyncio.Queue[float] = asyncio.Queue()
        working = asyncio.create_task(self._work(begun))
        waits: list[float] = []
        try:
            for job in payloads(count + UNMEASURED):
                await asyncio.sleep(PAUSE_S)
                started = time.perf_counter()
                await self._enqueue([job])
                waits.append((await begun.get() - started) * 1000)
        finally:
            working.cancel()
        measured = waits[UNMEASURED:]
        return {"p50": statistics.median(measured), "p99": statistics.quantiles(measured, n=100)[98]}

    async def _enqueue(self, jobs: Sequence[Payload]) -> None:
        request = pb.EnqueueJobsRequest(
            tenant_id=self._tenant,
            jobs=[
                pb.NewJob(
                    request_id=str(uuid4()), id=str(keys.new_id()), kind=KIND, payload=json.dumps(job).encode(),
                )
                for job in jobs
            ],
        )  # fmt: skip
        reply = await self._queue.call(self._stub.EnqueueJobs, request, timeout=TIMEOUT_S)
        refused = [each.error for each in reply.results if each.HasField("error")]
        if refused:
            raise RuntimeError(f"refused: {refused[0]}")

    async def _lease(self, most: int, wait_ms: int) -> Sequence[Any]:
        request = pb.LeaseJobsRequest(kinds=[KIND], max_jobs=most, worker_id="bench")
        request.lease_duration.FromSeconds(60)
        request.wait.FromMilliseconds(wait_ms)
        found: Sequence[Any] = (await self._queue.call(self._stub.LeaseJobs, request, timeout=TIMEOUT_S)).jobs
        return found

    async def _complete(self, jobs: Sequence[Any]) -> int:
        leases = [
            pb.LeaseRef(job_id=j.job.id, tenant_id=j.job.tenant_id, lease_token=j.lease_token) for j in jobs
        ]  # fmt: skip
        request = pb.CompleteJobsRequest(leases=leases)
        completed: int = (await self._queue.call(self._stub.CompleteJobs, request, timeout=TIMEOUT_S)).completed
        return completed

    async def _work(self, begun: asyncio.Queue[float]) -> None:
        while True:
            jobs = await self._lease(10, wait_ms=10_000)
            for _ in jobs:
                begun.put_nowait(time.perf_counter())
            if jobs:
                await self._complete(jobs)


async def _noop(_: Payload) -> None:
    return None


async def _run(scenario: str, count: int) -> None:
    async with Penguin.connect(PlatformConfig()) as penguin:
        ours = Ours(penguin.tiers["queue"])
        measured = {"bulk": ours.bulk, "drain": ours.drain, "single": ours.single, "idle": ours.idle}[scenario]
        memory.settle()  # as every process of the platform does
        print(json.dumps(await measured(count)), flush=True)


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1], int(sys.argv[2])))
