"""A worker at two processes of the real Queue, one of which ends."""

from __future__ import annotations

import contextlib
import time
from uuid import uuid4

from libs.worker.tests.conftest import Configure
from libs.worker.tests.handlers import Gate
from libs.worker.tests.test_real_queue import Side
from libs.worker.tests.test_real_tiers import SignedTokens
from libs.worker.tests.waiting import at_work, eventually, until

from penguin_devstack.ports import LOOPBACK, free_port
from penguin_devstack.roles import TierDatabase
from penguin_orchestrator.clients import connect
from penguin_queue.app import serving
from penguin_queue.config import QueueConfig
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory
from penguin_worker.kinds import Kind

DRAIN_S = 10.0


def config(database: TierDatabase, port: int, tokens: TokenFactory) -> QueueConfig:
    return QueueConfig(
        QUEUE_DB_URL=database.app_url,
        QUEUE_MAINTENANCE_DB_URL=database.maintenance_url,
        QUEUE_LISTEN=f"{LOOPBACK}:{port}",
        QUEUE_POOL_MAX=8,
        QUEUE_MAINTENANCE_POOL_MAX=8,
        QUEUE_REDIS_URL="",
        PENGUIN_JWKS_PATH=tokens.jwks_path,
        PENGUIN_DRAIN_SECONDS=DRAIN_S,
    )


async def test_a_worker_leaves_a_process_that_drains_for_one_that_does_not(
    databases: Databases, tokens: TokenFactory, configure: Configure
) -> None:
    database, ports = await databases.clone("queue"), (free_port(), free_port())
    address = "ipv4:" + ",".join(f"{LOOPBACK}:{port}" for port in ports)
    held, idle = Gate(), Gate()
    idle.open.set()
    async with contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as ending:
        await ending.enter_async_context(serving(config(database, ports[0], tokens)))
        queue = (await stack.enter_async_context(connect({"queue": address}, SignedTokens(tokens))))["queue"]
        side, other = Side(queue), Side(queue, kind=f"k{uuid4().hex}")
        (first,) = await side.put(1)
        kinds = {side.kind: Kind(held.handle, limit=1), other.kind: Kind(idle.handle)}
        async with at_work(queue, configure(), **kinds) as worker:
            await eventually(lambda: held.begun == [first] and all(line._stream for line in worker._lines))
            before = [line._stream for line in worker._lines]
            # Both streams are at the first one: there was no other.
            await stack.enter_async_context(serving(config(database, ports[1], tokens)))
            began = time.monotonic()
            await ending.aclose()
            assert time.monotonic() - began < DRAIN_S / 2
            await other.put(3)
            await until(other.completed)
            held.open.set()
            await until(side.completed)
            assert all(line._stream not in (None, *before) for line in worker._lines)
        (job,) = await side.jobs()
    assert (job.attempts, job.lost_leases, held.begun) == (0, 0, [first])
