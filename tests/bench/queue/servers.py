"""The private servers: one PostgreSQL and one Valkey for the peers, our queue tier with its own of both; same settings."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
from redis.asyncio import Redis
from tests.bench import spending
from tests.bench.queue.roster import PEERS, Contestant

from penguin_devstack.postgres import PostgresCluster, temporary_cluster
from penguin_devstack.stack import LocalStack
from penguin_devstack.valkey import ValkeyServer, temporary_valkey

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    # Large enough that no checkpoint falls into a measurement by its volume.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}
# But for what was migrated, and what the service remembers.
_TABLES = """SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname = 'public' AND tablename NOT IN ('schema_migrations', 'kinds', 'queues')"""


class Servers:
    """Makes each measurement start from the same state."""

    def __init__(self, cluster: PostgresCluster, valkey: ValkeyServer, stack: LocalStack) -> None:
        self._cluster = cluster
        self._valkey = valkey
        self._stack = stack

    def environment(self, contestant: Contestant) -> dict[str, str]:
        """What its driver is told."""
        if contestant.ours:
            return {**self._stack.environment("orchestrator"), "BENCH_DSN": our_dsn(self._stack)}
        number = PEERS.index(contestant)
        return {
            "DATABASE_URL": self._cluster.superuser_dsn(_database(contestant)),
            "VALKEY_URL": self._valkey.url.removesuffix("0") + str(number),
        }

    def spent(self) -> dict[str, float]:
        """CPU seconds of our processes so far."""
        return spending.spent(self._stack)

    async def empty(self, contestant: Contestant) -> None:
        """Nothing queued, nothing left of earlier runs."""
        if contestant.ours:
            await empty_ours(self._stack)
        elif contestant.store == "Valkey":
            await _flush(self.environment(contestant)["VALKEY_URL"])
        else:
            await self._cluster.drop_database(_database(contestant))
            await self._cluster.create_database(_database(contestant))
        await self.settle(contestant)

    async def settle(self, contestant: Contestant) -> None:
        """Statistics and visibility as autovacuum would leave them, and no dirty page of what went before."""
        if contestant.store == "PostgreSQL":
            await settle(self._dsn(contestant))

    def _dsn(self, contestant: Contestant) -> str:
        return our_dsn(self._stack) if contestant.ours else self._cluster.superuser_dsn(_database(contestant))


@contextlib.asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """Start all; stop and remove them in the end, however it comes."""
    with temporary_cluster(SETTINGS, durable=True) as cluster, temporary_valkey() as valkey:
        async with our_stack() as stack:
            yield Servers(cluster, valkey, stack)


@contextlib.asynccontextmanager
async def our_stack(**environment: str) -> AsyncIterator[LocalStack]:
    """Our queue tier alone, with PostgreSQL and Valkey of its own; gone in the end. The service is told `environment`, too."""
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        stack = LocalStack(
            Path(folder), tiers=("queue",), with_workers=False, environment={"queue": environment},
            database_settings=SETTINGS, tied_to_caller=True,
        )  # fmt: skip
        try:
            await stack.up()
            yield stack
        finally:
            await stack.down()


def our_dsn(stack: LocalStack) -> str:
    """Our queue's database, for a superuser's look."""
    return stack.cluster("queue").superuser_dsn(stack.database("queue").database)


async def empty_ours(stack: LocalStack) -> None:
    """Take out of our queue whatever it holds, and its Valkey."""
    connection = await asyncpg.connect(our_dsn(stack))
    try:
        tables = [row[0] for row in await connection.fetch(_TABLES)]
        for last in (*[False] * 9, True):
            try:
                await connection.execute(f"TRUNCATE {', '.join(tables)}")
                break
            except asyncpg.DeadlockDetectedError:  # the service looks at them meanwhile, in an order of its own
                if last:
                    raise
    finally:
        await connection.close()
    await _flush(stack.tier_environment("queue")["QUEUE_REDIS_URL"])


async def settle(dsn: str) -> None:
    """Statistics and visibility as autovacuum would leave them, and no dirty page of what went before."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def _database(contestant: Contestant) -> str:
    return contestant.name.replace("-", "_")


async def _flush(url: str) -> None:
    async with Redis.from_url(url) as client:
        await client.flushdb()
