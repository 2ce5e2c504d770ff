"""Handlers that are watched, and jobs for them at the fake queue."""

from __future__ import annotations

import asyncio
from uuid import UUID

from penguin_testkit.peers import Peers
from penguin_worker.jobs import Job

TENANT = UUID("0190a000-0000-7000-8000-00000000000b")


class Gate:
    """A handler that waits until it is let through, and remembers whom it saw."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun: list[int] = []
        self.most = 0
        self._now = 0

    async def handle(self, job: Job) -> None:
        self.begun.append(job.id)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.open.wait()
        finally:
            self._now -= 1


async def nothing(_: Job) -> None:
    return None


def put(peers: Peers, kind: str, count: int) -> list[int]:
    return [peers.queue.put(TENANT, kind, {}) for _ in range(count)]


def all_are(peers: Peers, ids: list[int], state: str) -> bool:
    return all(peers.queue.state(job_id) == state for job_id in ids)
