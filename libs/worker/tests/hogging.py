"""A worker as a process of its own, whose handler hogs the event loop: `hogging.py <address> <seconds>`.

Tokens come as JSON by method in TOKENS. It prints a line for each attempt, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from uuid import UUID

import grpc

from penguin_orchestrator.clients import OPTIONS, Tier
from penguin_worker.config import WorkerConfig
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kind
from penguin_worker.leasing import Worker


class GivenTokens:
    """Tokens made by the test."""

    async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
        raise NotImplementedError

    async def platform_token(self, tier: str, method: str, scope: str) -> str:
        return str(json.loads(os.environ["TOKENS"])[method])


async def main(address: str, hog_s: float) -> None:
    async def hog(job: Job) -> None:
        sys.stdout.write(f"begun {job.id} {job.lost_leases}\n")
        sys.stdout.flush()
        time.sleep(hog_s)  # noqa: ASYNC251 - the very thing that is tried

    config = WorkerConfig.model_validate(
        {"worker_id": "hog", "lease_s": 1.0, "drain_s": 2.0, "stuck_s": float(os.environ.get("STUCK_S", "60"))}
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        queue = Tier("queue", channel, GivenTokens(), address)
        worker = Worker(queue, config, stuck=lambda: os._exit(os.EX_SOFTWARE))
        await worker.run({"hog": Kind(hog)}, stopped)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
