"""A worker as a process of its own, whose effects go to a store that applies each once: `python -m tests.failure.applying <name>
<store>`.

It works on two kinds by a stream, one of them rated, and on another by small leases, and ends when its input does. CLOCK_OFF_S sets
its wall clock wrong by so many seconds; WORKER_LEASE_S is its lease.
"""

from __future__ import annotations

import os
import time

from tests.failure.wrong_clock import set_clock_wrong

# Before anything else is imported, for many take these by name.
if off := float(os.environ.get("CLOCK_OFF_S", "0")):
    set_clock_wrong(off)

import asyncio
import contextlib
import sys

import asyncpg
import uvloop

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.platform import Penguin
from penguin_worker.config import WorkerConfig
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kind
from penguin_worker.leasing import Worker

STREAMED, POLLED, RATED = "faults.streamed", "faults.polled", "faults.rated"
# Before an effect, and from there to the word on it: a fault finds handlers in both (seconds).
BEFORE_S, AFTER_S = 0.1, 0.5
POLLERS, PER_LEASE = 2, 10
# An effect is there once; whoever comes again is counted, and changes nothing else.
APPLY = """INSERT INTO effects (job_id, tenant_id, worker, clock, lost_leases, kind) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (job_id) DO UPDATE SET refused = effects.refused + 1"""


class Applying:
    """Brings effects about."""

    def __init__(self, name: str, store: asyncpg.Pool) -> None:
        self._name = name
        self._store = store

    async def streamed(self, job: Job) -> None:
        """A job that came by the stream."""
        await asyncio.sleep(BEFORE_S)
        await self._store.execute(APPLY, job.id, job.tenant_id, self._name, time.time(), job.lost_leases, job.kind)
        await asyncio.sleep(AFTER_S)

    async def poll(self, queue: Tier, lease_s: float) -> None:
        """Lease a few, do them, say so; for ever, and through everything that happens to the queue."""
        stub = queue.stub(QueueServiceStub)
        request = pb.LeaseJobsRequest(kinds=[POLLED], max_jobs=PER_LEASE, worker_id=self._name)
        request.lease_duration.FromMilliseconds(int(lease_s * 1000))
        request.wait.FromSeconds(1)
        while True:
            try:
                leased = (await queue.call(stub.LeaseJobs, request)).jobs
                for each in leased:
                    job = each.job
                    await self._store.execute(
                        APPLY, job.id, job.tenant_id, self._name, time.time(), job.lost_leases, POLLED
                    )
                if leased:
                    refs = [pb.LeaseRef(job_id=each.job.id, lease_token=each.lease_token) for each in leased]
                    await queue.call(stub.CompleteJobs, pb.CompleteJobsRequest(leases=refs))
            except TierError:
                # A word that was not heard is no matter: the lease runs out, and the effect is there already.
                await asyncio.sleep(0.1)


async def main(name: str, dsn: str) -> None:
    config = WorkerConfig.model_validate({"worker_id": name, "drain_s": 2.0})
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as store, Penguin.connect() as penguin:
        queue, applying = penguin.tiers["queue"], Applying(name, store)
        polling = [asyncio.create_task(applying.poll(queue, config.lease_s)) for _ in range(POLLERS)]
        try:
            await Worker(queue, config).run(dict.fromkeys((STREAMED, RATED), Kind(applying.streamed)), stopped)
        finally:
            for task in polling:
                task.cancel()
            for task in polling:
                with contextlib.suppress(asyncio.CancelledError):
                    await task


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2]))
