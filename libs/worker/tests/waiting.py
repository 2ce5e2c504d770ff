"""A worker at work, and waiting for what it brings about."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from penguin_orchestrator.clients import Tier
from penguin_worker.config import WorkerConfig
from penguin_worker.kinds import Kind
from penguin_worker.leasing import Worker
from penguin_worker.process import work


@contextlib.asynccontextmanager
async def working(tiers: dict[str, Tier], config: WorkerConfig) -> AsyncIterator[asyncio.Event]:
    stopped = asyncio.Event()
    task = asyncio.create_task(work(tiers, config, stopped))
    try:
        yield stopped
    finally:
        stopped.set()
        await asyncio.wait_for(task, config.drain_s + 10)


@contextlib.asynccontextmanager
async def at_work(queue: Tier, config: WorkerConfig, **kinds: Kind) -> AsyncIterator[Worker]:
    worker, stopped = Worker(queue, config), asyncio.Event()
    task = asyncio.create_task(worker.run(kinds, stopped))
    try:
        yield worker
    finally:
        stopped.set()
        await asyncio.wait_for(task, config.drain_s + 15)


async def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what is waited for lies in a server that knows no event of ours
            await asyncio.sleep(0.01)


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not await holds():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
