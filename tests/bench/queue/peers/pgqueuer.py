"""PgQueuer: lists for bulk enqueue over a pool, one connection and big batches for the manager, its autovacuum settings.

https://janbjorge.github.io/pgqueuer/guides/performance-tuning
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import asyncpg
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from tests.bench.queue.peers.measuring import IN_FLIGHT, Drained, Payload, main

ENTRYPOINT = "noop"
BATCH = int(os.environ.get("PEER_SIZE", "500"))


class PgQueuer:
    """The scenarios on PgQueuer, tables durable."""

    async def open(self) -> None:
        """Connect; install the schema where it is missing."""
        self._pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=IN_FLIGHT, max_size=IN_FLIGHT)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))
        if not await self._queries.schema_is_installed():
            await self._queries.install()
            await self._queries.optimize_autovacuum()
        self._connection = await asyncpg.connect(os.environ["DATABASE_URL"])

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()
        self._pool.terminate()

    async def enqueue(self, payloads: Sequence[Payload]) -> None:
        """One statement for all."""
        count = len(payloads)
        await self._queries.enqueue([ENTRYPOINT] * count, [json.dumps(p).encode() for p in payloads], [0] * count)

    async def enqueue_one(self, payload: Payload) -> None:
        """One job."""
        await self._queries.enqueue(ENTRYPOINT, json.dumps(payload).encode())

    def _manager(self, handler: Callable[[], None]) -> QueueManager:
        manager = QueueManager(Queries(AsyncpgDriver(self._connection)))

        async def noop(_: Job) -> None:
            handler()

        manager.entrypoint(ENTRYPOINT)(noop)
        return manager

    async def drain(self, drained: Drained, limit_s: float) -> None:
        """Leaving run() writes what its buffers hold."""
        manager = self._manager(drained.one)
        running = asyncio.create_task(manager.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=1)))
        await drained.wait(limit_s)
        manager.shutdown.set()
        await running

    async def work(self, handled: Callable[[], None], ready: asyncio.Event) -> None:
        """Woken by NOTIFY."""
        asyncio.get_running_loop().call_later(1, ready.set)
        await self._manager(handled).run()


if __name__ == "__main__":
    main(PgQueuer)
