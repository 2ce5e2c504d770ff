"""Procrastinate: batch_defer_async() for batches, one worker of high concurrency that deletes what is done.

https://procrastinate.readthedocs.io/en/stable/howto/production/batch_defer.html and .../howto/basics/worker.html
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import procrastinate
from tests.bench.queue.peers.measuring import IN_FLIGHT, Drained, Payload, main

CONCURRENCY = int(os.environ.get("PEER_CONCURRENCY", "30"))


class Procrastinate:
    """The scenarios on Procrastinate."""

    async def open(self) -> None:
        """Connect; apply the schema where it is missing."""
        connector = procrastinate.PsycopgConnector(
            conninfo=os.environ["DATABASE_URL"], min_size=IN_FLIGHT, max_size=IN_FLIGHT
        )
        self._app = procrastinate.App(connector=connector)
        self._handler: Callable[[], None] = lambda: None
        self._task = self._app.task(name="noop")(self._noop)
        await self._app.open_async()
        if not await self._app.check_connection_async():
            await self._app.schema_manager.apply_schema_async()

    async def _noop(self, email_id: str) -> None:
        self._handler()

    async def close(self) -> None:
        """Disconnect."""
        await self._app.close_async()

    async def enqueue(self, payloads: Sequence[Payload]) -> None:
        """One statement for all."""
        await self._task.batch_defer_async(*payloads)

    async def enqueue_one(self, payload: Payload) -> None:
        """One job."""
        await self._task.defer_async(**payload)

    async def _run(self) -> None:
        await self._app.run_worker_async(
            concurrency=CONCURRENCY, delete_jobs="always", install_signal_handlers=False, shutdown_graceful_timeout=2
        )

    async def drain(self, drained: Drained, limit_s: float) -> None:
        """Cancelling the worker lets it finish what it has begun."""
        self._handler = drained.one
        running = asyncio.create_task(self._run())
        await drained.wait(limit_s)
        running.cancel()
        await asyncio.wait([running])

    async def work(self, handled: Callable[[], None], ready: asyncio.Event) -> None:
        """Woken by NOTIFY."""
        self._handler = handled
        asyncio.get_running_loop().call_later(1, ready.set)
        await self._run()


if __name__ == "__main__":
    main(Procrastinate)
