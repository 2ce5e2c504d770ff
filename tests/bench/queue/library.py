"""Our worker library's driver: what a worker written with it drains and how long its handler waits, beside what the bare stream of
`ours` does.

`python -m tests.bench.queue.library fill|drain|idle <count> [traced]`; traced: with the library's middleware for tracing, a provider
whose batches go nowhere, and jobs whose producers' traces are sampled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

import uvloop
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from tests.bench.queue.ours import PLACES, STREAMS, TERMS, UNMEASURED, Left, idle_waits
from tests.bench.queue.peers.measuring import PER_CALL, at_once, payloads

from penguin_chassis import memory
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin
from penguin_worker.config import WorkerConfig
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kind
from penguin_worker.leasing import Worker
from penguin_worker.middleware import tracing

CALLERS = 4


class Nowhere(SpanExporter):
    """Takes batches of spans, and counts them."""

    def __init__(self) -> None:
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take them."""
        self.taken += len(spans)
        return SpanExportResult.SUCCESS


async def fill(penguin: Penguin, count: int) -> dict[str, float]:
    """Jobs to be drained; not measured. Those of a call share their producer's trace, where there is one."""
    jobs, tenant = payloads(count), uuid4()

    async def enqueue(first: int) -> None:
        with trace.get_tracer("bench").start_as_current_span("produce"):
            await penguin.jobs.enqueue_many(tenant, TERMS, jobs[first : min(first + PER_CALL, count)])

    return {"rate": count / await at_once([partial(enqueue, first) for first in range(0, count, PER_CALL)], CALLERS)}


async def drain(queue: Tier, count: int, traced: bool) -> dict[str, float]:
    """Jobs a second, from the worker's start to the last answered word."""
    left, stopped = Left(count), asyncio.Event()

    async def noop(job: Job) -> None:
        _ = job.payload
        left.less(1)

    config = WorkerConfig.model_validate({"worker_id": "bench", "lease_s": 60.0, "drain_s": 5.0})
    # As many streams and places as the bare row has: each worker has one stream for a kind.
    workers = [Worker(queue, config, middleware=(tracing,) if traced else ()) for _ in range(STREAMS)]
    started = time.perf_counter()
    kinds = {TERMS.kind: Kind(noop, limit=PLACES)}
    working = asyncio.gather(*(worker.run(kinds, stopped) for worker in workers))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(float(os.environ.get("BENCH_LIMIT_S", "20"))):
            await left.none.wait()
            while any(worker.in_hand for worker in workers):  # noqa: ASYNC110 - the library tells nobody of its last answer
                await asyncio.sleep(0.001)
    seconds = time.perf_counter() - started
    stopped.set()
    await working
    return {"rate": (count - left.count) / seconds}


async def idle(penguin: Penguin, count: int) -> dict[str, float]:
    """Milliseconds from an enqueue to the first line of its handler."""
    begun: asyncio.Queue[float] = asyncio.Queue()

    async def handle(job: Job) -> None:
        begun.put_nowait(time.perf_counter())

    config = WorkerConfig.model_validate({"worker_id": "bench", "concurrency": 10, "lease_s": 60.0, "drain_s": 5.0})
    worker, stopped = Worker(penguin.tiers["queue"], config, middleware=()), asyncio.Event()
    working = asyncio.create_task(worker.run({TERMS.kind: Kind(handle)}, stopped))
    measured = await idle_waits(penguin, begun, payloads(count + UNMEASURED))
    stopped.set()
    await working
    return measured


async def _run(act: str, count: int, traced: bool) -> None:
    nowhere = Nowhere()
    if traced:
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(nowhere))
        trace.set_tracer_provider(provider)
    async with Penguin.connect(PlatformConfig()) as penguin:
        if act == "fill":
            print(json.dumps(await fill(penguin, count)), flush=True)
            return
        memory.settle()  # as every process of the platform does
        before = time.process_time()
        if act == "idle":
            answer = await idle(penguin, count)
        else:
            answer = await drain(penguin.tiers["queue"], count, traced)
        spent = time.process_time() - before
    print(json.dumps(answer | {"client_s": spent, "spans": nowhere.taken}), flush=True)


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1], int(sys.argv[2]), "traced" in sys.argv[3:]))
