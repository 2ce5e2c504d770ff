"""What an idle job's time is made of: the parts of its path, each measured alone beside it. `python -m tests.bench.queue.floor <count>`.

With the queue idle every part begins with a wake-up: of the driver, of the service, of a PostgreSQL backend, of the disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import uvloop
from tests.bench.queue.ours import TERMS, TIMEOUT_S, UNMEASURED
from tests.bench.queue.peers.measuring import PAUSE_S, payloads

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis import memory
from penguin_chassis.barrier import Step
from penguin_chassis.pool import database
from penguin_chassis.settings import PoolSettings
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin
from penguin_queue.domain.jobs import NewBatch
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds

_MADE = "CREATE TABLE IF NOT EXISTS bench_floor (payload bytea NOT NULL)"
_GONE = "DROP TABLE bench_floor"


async def _database(count: int) -> dict[str, float]:
    """PostgreSQL without anything of ours around it."""
    connection = await asyncpg.connect(os.environ["BENCH_DSN"])
    try:
        await connection.execute(_MADE)
        payload = b"{}" * 20
        read = await _median(count, lambda _: connection.fetchval("SELECT 1"))
        stored = await _median(count, lambda _: connection.execute("INSERT INTO bench_floor VALUES ($1)", payload))
        await connection.execute(_GONE)
        return {"a query there and back": read, "an insert and its commit": stored}
    finally:
        await connection.close()


async def _store(count: int) -> dict[str, float]:
    """What the service's store does for an enqueue, in this process: one statement in a trip of its own."""
    dsn, tenant = os.environ["BENCH_DSN"], uuid4()
    jobs = payloads(count + UNMEASURED)
    async with database(PoolSettings(dsn, dsn, max_size=2, maintenance_max_size=1)) as db:
        store = JobStore(db, Kinds())

        async def enqueue(number: int) -> None:
            body = json.dumps(jobs[number]).encode()
            step = Step(tenant, str(uuid4()), hashlib.sha256(body).digest(), datetime.now(UTC))
            await store.enqueue_batch(step, NewBatch(TERMS.kind, [body], 0, 0, None, 0, [""]))

        return {"the statement that stores a job": await _median(count, enqueue)}


async def _service(count: int) -> dict[str, float]:
    """gRPC to the running service and back, and the enqueue when nobody waits for the job."""
    tenant = uuid4()
    jobs = payloads(count + UNMEASURED)
    async with Penguin.connect(PlatformConfig()) as penguin:
        memory.settle()
        queue = penguin.tiers["queue"]
        service = queue.stub(QueueServiceStub)
        request = pb.ListJobsRequest(tenant_id=str(tenant), page_size=1)
        unary = await _median(count, lambda _: queue.call(service.ListJobs, request))
        enqueue = await _median(count, lambda n: penguin.jobs.enqueue(tenant, TERMS, jobs[n]))
        async with queue.conversation(service.WorkJobs, timeout=TIMEOUT_S) as stream:
            start = pb.WorkStart(kinds=["bench.none"], max_in_flight=1, worker_id="floor")
            start.lease_duration.FromSeconds(60)
            await stream.write(pb.WorkJobsRequest(start=start))
            await stream.read()

            async def there_and_back(number: int) -> None:
                await stream.write(pb.WorkJobsRequest(number=number + 1))
                await stream.read()

            trip = await _median(count, there_and_back)
    return {
        "a stream's message there and back": trip,
        "a unary call with one query": unary,
        "an enqueue that nobody waits for": enqueue,
    }


async def _median(count: int, act: Callable[[int], Awaitable[object]]) -> float:
    """Milliseconds, with a pause before each, as the idle scenario has it."""
    took: list[float] = []
    for number in range(count + UNMEASURED):
        await asyncio.sleep(PAUSE_S)
        started = time.perf_counter()
        await act(number)
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took[UNMEASURED:])


async def _run(count: int) -> None:
    print(json.dumps(await _database(count) | await _store(count) | await _service(count)), flush=True)


if __name__ == "__main__":
    uvloop.run(_run(int(sys.argv[1])))
