"""Our queue with servers of its own, as it is measured: what empties it, weighs on it, and what it takes of memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import asyncpg
import psutil
from redis.asyncio import Redis
from tests.bench.queue.servers import empty_ours, our_dsn, our_stack, settle
from tests.queues import REPLICAS

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis import memory
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin
from penguin_worker.config import WorkerConfig
from penguin_worker.kinds import Kind
from penguin_worker.leasing import Worker

MEBI = 1 << 20
LEASE_S = 60.0
WEIGHED_EVERY_S = 0.5


@dataclass(frozen=True)
class Rig:
    """A running queue and a caller of it."""

    stack: LocalStack
    penguin: Penguin

    @property
    def queue(self) -> Tier:
        """The queue as a worker has it."""
        return self.penguin.tiers["queue"]

    @property
    def dsn(self) -> str:
        """Its database, for a look from outside."""
        return our_dsn(self.stack)

    async def empty(self) -> None:
        """Nothing queued, and no trace of what was."""
        await empty_ours(self.stack)
        await settle(self.dsn)

    @contextlib.asynccontextmanager
    async def working(self, kinds: Mapping[str, Kind], places: int) -> AsyncIterator[None]:
        """A worker in this process, so that one clock measures both ends."""
        stopped = asyncio.Event()
        fields = {"worker_id": "bench", "concurrency": places, "lease_s": LEASE_S, "drain_s": 1.0}
        worker = Worker(self.queue, WorkerConfig.model_validate(fields), middleware=())
        task = asyncio.create_task(worker.run(kinds, stopped))
        try:
            yield
        finally:
            stopped.set()
            await task

    async def lease(self, kind: str, most: int, wait_s: float = 0.0) -> pb.LeaseJobsResponse:
        """LeaseJobs, as a client without streams has it."""
        request = pb.LeaseJobsRequest(kinds=[kind], max_jobs=most, worker_id="bench")
        request.lease_duration.FromMilliseconds(int(LEASE_S * 1000))
        request.wait.FromMilliseconds(int(wait_s * 1000))
        reply: pb.LeaseJobsResponse = await self.queue.call(self.queue.stub(QueueServiceStub).LeaseJobs, request)
        return reply

    async def complete(self, leased: pb.LeaseJobsResponse) -> None:
        """Say that these are done."""
        refs = [pb.LeaseRef(job_id=each.job.id, lease_token=each.lease_token) for each in leased.jobs]
        if refs:
            method = self.queue.stub(QueueServiceStub).CompleteJobs
            await self.queue.call(method, pb.CompleteJobsRequest(leases=refs))

    @contextlib.asynccontextmanager
    async def snapshot_held(self) -> AsyncIterator[None]:
        """A transaction with an xid and a snapshot stays open: no row that dies inside can be vacuumed away."""
        connection = await asyncpg.connect(self.dsn)
        try:
            async with connection.transaction(isolation="repeatable_read"):
                await connection.execute("SELECT pg_current_xact_id()")
                yield
        finally:
            await connection.close()

    async def left(self, seconds: float) -> int:
        """How many jobs are in the queue still; waits so long for there to be none."""
        connection = await asyncpg.connect(self.dsn)
        ends = asyncio.get_running_loop().time() + seconds
        try:
            while True:
                count = int(await connection.fetchval("SELECT count(*) FROM jobs"))
                if not count or asyncio.get_running_loop().time() > ends:
                    return count
                await asyncio.sleep(0.1)
        finally:
            await connection.close()

    async def dead_rows(self) -> int:
        """Dead rows of all its tables, as the statistics have it."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute("SELECT pg_stat_force_next_flush()")
            return int(await connection.fetchval("SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables"))
        finally:
            await connection.close()

    async def memory_mib(self) -> dict[str, float]:
        """Of the service: resident; of PostgreSQL: what its processes share with nobody, so without the shared buffers; of
        Valkey: what it says it uses."""
        components = self.stack.status().components
        found: dict[str, float] = {}
        service, database = components["queue"].process, components["queue-db"].process
        if service is not None:
            found["service"] = psutil.Process(service.pid).memory_info().rss / MEBI
        if database is not None:
            found["PostgreSQL"] = sum(_private(process) for process in _tree(database.pid)) / MEBI
        async with Redis.from_url(self.stack.tier_environment("queue")["QUEUE_REDIS_URL"]) as client:
            found["Valkey"] = int((await client.info("memory"))["used_memory"]) / MEBI
        return found

    @contextlib.asynccontextmanager
    async def weighed(self) -> AsyncIterator[dict[str, float]]:
        """The most that the service, PostgreSQL and Valkey take of memory within the block (MiB), looked at twice a second; to be
        read after it."""
        most: dict[str, float] = {}

        async def weigh() -> None:
            while True:
                for name, mebi in (await self.memory_mib()).items():
                    most[name] = max(mebi, most.get(name, 0.0))
                await asyncio.sleep(WEIGHED_EVERY_S)

        task = asyncio.create_task(weigh())
        try:
            yield most
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _private(process: psutil.Process) -> int:
    # A backend may end while it is looked at; another user's is not shown.
    with contextlib.suppress(psutil.Error):
        return int(process.memory_full_info().uss)
    return 0


def revision() -> str:
    """What was measured: the commit, and whether more than that lay in the working tree."""
    words = ["git", "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        return subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip()
    return ""


@contextlib.asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """Start all; stop and remove it in the end, however it comes."""
    # One scenario has a second service: without Redis each gives its part of a rate.
    async with our_stack(QUEUE_REPLICAS=str(REPLICAS)) as stack:
        config = PlatformConfig(**stack.environment("orchestrator"))  # type: ignore[arg-type]
        async with Penguin.connect(config) as penguin:
            memory.settle()  # as every process of the platform does
            yield Rig(stack, penguin)


def as_json(value: object) -> str:
    """Figures as they are kept; what is no number is null."""
    return json.dumps(_finite(value), indent=2) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if abs(value) != float("inf") and value == value else None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
