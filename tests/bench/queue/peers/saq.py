"""SAQ on Valkey: it has no bulk call, so a batch is its jobs enqueued at once; one worker of high concurrency, hiredis.

https://saq-py.readthedocs.io/en/latest/getting_started.html
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any

from saq import Queue, Worker
from tests.bench.queue.peers.measuring import IN_FLIGHT, Drained, Payload, main

CONCURRENCY = int(os.environ.get("PEER_CONCURRENCY", "100"))


class Saq:
    """The scenarios on SAQ."""

    async def open(self) -> None:
        """Connect."""
        self._queue = Queue.from_url(os.environ["VALKEY_URL"], name="noop", max_concurrent_ops=IN_FLIGHT)
        await self._queue.connect()

    async def close(self) -> None:
        """Disconnect."""
        await self._queue.disconnect()

    async def enqueue(self, payloads: Sequence[Payload]) -> None:
        """All at once."""
        await asyncio.gather(*(self.enqueue_one(payload) for payload in payloads))

    async def enqueue_one(self, payload: Payload) -> None:
        """One job that leaves nothing behind."""
        await self._queue.enqueue("noop", ttl=-1, **payload)

    async def _work(self, handler: Callable[[], None], finished: Callable[[], None]) -> None:
        async def noop(_: Any, *, email_id: str) -> None:
            handler()

        async def after(_: Any) -> None:
            finished()

        worker: Any = Worker(
            self._queue, functions=[("noop", noop)], concurrency=CONCURRENCY, after_process=after, dequeue_timeout=1
        )
        worker.SIGNALS = []
        await worker.start()

    async def drain(self, drained: Drained, limit_s: float) -> None:
        """Counted once finished."""
        running = asyncio.create_task(self._work(lambda: None, drained.one))
        await drained.wait(limit_s)
        running.cancel()
        await asyncio.wait([running], timeout=0)

    async def work(self, handled: Callable[[], None], ready: asyncio.Event) -> None:
        """Waits in BLMOVE."""
        asyncio.get_running_loop().call_later(1, ready.set)
        await self._work(handled, lambda: None)


if __name__ == "__main__":
    main(Saq)
