"""A load on the queue whose every effect is accounted for: a producer that remembers what was acknowledged, workers in
processes of their own, and the store that says what was applied, and how often somebody came too late."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
from tests.failure.applying import POLLED, RATED, STREAMED

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.jobs import Terms
from penguin_orchestrator.platform import Penguin

ROOT = Path(__file__).parents[2]
TERMS, RATED_TERMS = (Terms(STREAMED), Terms(POLLED)), Terms(RATED)
# Jobs a second, in runs of one kind so that those beside one another travel together: enough for every worker to have some in hand
# at any moment, and no more, for it is faults that are tried here.
RATE, RUN = 60, 6
# The queue of the rated kind lets go so many a second, and so many at once; a little more is sent, and so many to begin with: there
# are always some that wait for the rate alone.
RATED_PER_S, RATED_BURST, RATED_SENT, RATED_AHEAD = 20, 10, 25, 60
LEASE_S = 2
TABLE = """CREATE TABLE effects (job_id bigint PRIMARY KEY, tenant_id uuid NOT NULL, worker text NOT NULL,
    clock double precision NOT NULL, lost_leases integer NOT NULL, kind text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(), refused integer NOT NULL DEFAULT 0)"""


@dataclass(frozen=True)
class Effects:
    """What one tenant's jobs have brought about."""

    store: asyncpg.Pool
    tenant: UUID

    async def applied(self) -> set[int]:
        """Jobs whose effect is there; it cannot be there twice."""
        rows = await self.store.fetch("SELECT job_id FROM effects WHERE tenant_id = $1", self.tenant)
        return {row[0] for row in rows}

    async def count(self) -> int:
        """How many effects are there."""
        return int(await self.store.fetchval("SELECT count(*) FROM effects WHERE tenant_id = $1", self.tenant))

    async def times(self, kind: str) -> list[float]:
        """When those of a kind were applied, in order (seconds since 1970, by the store's clock)."""
        sql = """SELECT extract(epoch FROM applied_at)::float8 FROM effects WHERE tenant_id = $1 AND kind = $2
                 ORDER BY applied_at"""
        return [row[0] for row in await self.store.fetch(sql, self.tenant, kind)]

    async def now(self) -> float:
        """The store's time, as above."""
        return float(await self.store.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))

    async def refused(self) -> int:
        """How often an effect was to be brought about again."""
        sql = "SELECT coalesce(sum(refused), 0) FROM effects WHERE tenant_id = $1"
        return int(await self.store.fetchval(sql, self.tenant))

    async def after_loss(self) -> int:
        """Effects of jobs that had lost a lease before."""
        sql = "SELECT count(*) FROM effects WHERE tenant_id = $1 AND lost_leases > 0"
        return int(await self.store.fetchval(sql, self.tenant))

    async def in_the_act(self, worker: str) -> bool:
        """Whether it has brought an effect about that it cannot have told the queue of."""
        sql = """SELECT EXISTS (SELECT FROM effects WHERE tenant_id = $1 AND worker = $2 AND kind = $3
                 AND applied_at > clock_timestamp() - interval '0.1 s')"""
        return bool(await self.store.fetchval(sql, self.tenant, worker, STREAMED))

    async def clocks_off(self) -> dict[str, float]:
        """By worker, how far its clock is from the store's (seconds)."""
        sql = """SELECT worker, avg(clock - extract(epoch FROM applied_at))::float8 FROM effects
                 WHERE tenant_id = $1 GROUP BY worker"""
        return {row[0]: row[1] for row in await self.store.fetch(sql, self.tenant)}


@contextlib.asynccontextmanager
async def effects_store(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    """The store of effects, in an empty database that no fault reaches."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
        await pool.execute(TABLE)
        yield pool


class WorkerProcess:
    """One worker that can be killed, and started again."""

    def __init__(self, name: str, dsn: str, environment: Mapping[str, str], clock_off_s: float = 0.0) -> None:
        self.name = name
        self._dsn = dsn
        self._environment = {**environment, "WORKER_LEASE_S": str(LEASE_S), "CLOCK_OFF_S": str(clock_off_s)}
        # Spans of a load that nobody looks at.
        self._environment.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.failure.applying", self.name, self._dsn, cwd=ROOT,
            env={**os.environ, **self._environment}, stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def kill(self) -> None:
        """SIGKILL, whatever it has in hand."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """End in order; one that was killed already is no error."""
        if self._process is None or self._process.returncode is not None or self._process.stdin is None:
            return
        self._process.stdin.close()
        assert await asyncio.wait_for(self._process.wait(), 20) == 0, f"{self.name} did not end in order"


@contextlib.asynccontextmanager
async def at_work(*workers: WorkerProcess) -> AsyncIterator[None]:
    """These processes work inside; none is left behind."""
    try:
        for worker in workers:
            await worker.start()
        yield
        await asyncio.gather(*(worker.stop() for worker in workers))
    finally:
        for worker in workers:
            await worker.kill()


async def leases_off(queue_dsn: str) -> list[float]:
    """How far the ends of the leases that stand are from the time of the queue's database (seconds)."""
    connection = await asyncpg.connect(queue_dsn)
    try:
        rows = await connection.fetch(
            "SELECT extract(epoch FROM leased_until - clock_timestamp())::float8 FROM jobs WHERE state = 2"
        )
    finally:
        await connection.close()
    return [row[0] for row in rows]


@dataclass
class Load:
    """An open load: jobs are sent when their time comes, whatever has become of those before them."""

    penguin: Penguin
    tenant: UUID = field(default_factory=uuid4)
    # Numbers of jobs that the queue has said it has.
    acknowledged: list[int] = field(default_factory=list)
    sent: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, most_s: float) -> None:
        """Send until it is enough, and wait for every answer. Raises what an enqueue raises, for the client is to sit a fault
        out; and TimeoutError when it is not enough in time."""
        async with asyncio.TaskGroup() as sending:
            sending.create_task(self._keep_sending(sending, RATE, TERMS, most_s))
            sending.create_task(self._keep_sending(sending, RATED_SENT, [RATED_TERMS], most_s, RATED_AHEAD))

    async def _keep_sending(
        self, sending: asyncio.TaskGroup, per_s: float, kinds: Sequence[Terms], most_s: float, ahead: int = 0
    ) -> None:
        clock = asyncio.get_running_loop().time
        began, number = clock(), 0
        while not self.enough.is_set():
            if clock() - began > most_s:
                raise TimeoutError
            await asyncio.sleep(max(0.0, began + (number - ahead) / per_s - clock()))
            sending.create_task(self._send(kinds[number // RUN % len(kinds)], number))
            self.sent += 1
            number += 1

    async def _send(self, terms: Terms, number: int) -> None:
        self.acknowledged.append(await self.penguin.jobs.enqueue(self.tenant, terms, {"number": number}))

    async def counts(self) -> dict[int, int]:
        """Jobs by state."""
        queue = self.penguin.tiers["queue"]
        request = pb.GetQueueStatsRequest(tenant_id=str(self.tenant))
        reply = await queue.insist(queue.stub(QueueServiceStub).GetQueueStats, request, deadline_s=20)
        found: dict[int, int] = {}
        for count in reply.counts:
            found[count.state] = found.get(count.state, 0) + count.count
        return found
