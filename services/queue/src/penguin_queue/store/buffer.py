"""The ready buffer in Redis: references to ready jobs, in turns of their tenants, for small leases. It holds hints and no
truth: a reference that is lost, doubled or stale costs a look, and every failure here is an empty answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from penguin_queue.domain.jobs import Ready
from penguin_queue.store.redis import TIMEOUT_S, Guard

# References one (priority, kind, tenant) may have waiting; what is beyond is found in PostgreSQL.
DEPTH = 200
# A reference this old is better looked for in PostgreSQL (seconds).
TTL_S = 60
# Pushes under way at once; more are dropped.
MAX_PUSHES = 32
PRIORITIES = (1, 2, 3)

_PUSH = """
local room = tonumber(ARGV[2]) - redis.call('LLEN', KEYS[2])
if room <= 0 then return 0 end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('RPUSH', KEYS[1], ARGV[1]) end
local pushed = 0
for i = 4, #ARGV do
  if pushed == room then break end
  redis.call('RPUSH', KEYS[2], ARGV[i])
  pushed = pushed + 1
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return pushed
"""
# Each ring holds the tenants that have references; who is served goes to its end.
_POP = """
local wanted = tonumber(ARGV[1])
local found = {}
for _, ring in ipairs(KEYS) do
  while #found < wanted do
    local tenant = redis.call('LPOP', ring)
    if not tenant then break end
    local refs = ring .. ':' .. tenant
    local id = redis.call('LPOP', refs)
    if id then
      found[#found + 1] = id
      if redis.call('EXISTS', refs) == 1 then redis.call('RPUSH', ring, tenant) end
    end
  end
end
return found
"""


class ReadyBuffer:
    """References in one Redis, or in none."""

    def __init__(self, client: Redis | None, timeout_s: float = TIMEOUT_S) -> None:
        self._client = client
        self._guard = Guard("ready buffer", timeout_s)
        self._pushes: set[asyncio.Task[None]] = set()
        self._push: Any = client.register_script(_PUSH) if client else None
        self._pop: Any = client.register_script(_POP) if client else None

    @property
    def usable(self) -> bool:
        """Whether it is worth asking now."""
        return self._client is not None and self._guard.usable

    def offer(self, jobs: Sequence[Ready]) -> None:
        """Put references in, some time soon; never waits, and drops what it cannot hold."""
        if not jobs or not self.usable or len(self._pushes) >= MAX_PUSHES:
            return
        groups: dict[tuple[int, str, UUID], list[bytes]] = defaultdict(list)
        for job in jobs:
            refs = groups[job.priority, job.kind, job.tenant_id]
            if len(refs) < DEPTH:
                refs.append(job.id.to_bytes(8))
        task = asyncio.create_task(self._fill(groups))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def take(self, kinds: Sequence[str], wanted: int) -> list[int]:
        """Take out up to `wanted` jobs' ids, high priority first; none on any trouble."""
        if not self.usable:
            return []
        rings = [_ring(priority, kind) for priority in PRIORITIES for kind in kinds]
        async with self._guard.act():
            found = await self._pop(keys=rings, args=[wanted])
            return [int.from_bytes(ref) for ref in found]
        return []

    async def close(self) -> None:
        """Let go of what is under way."""
        for task in self._pushes:
            task.cancel()
        await asyncio.gather(*self._pushes, return_exceptions=True)

    async def _fill(self, groups: dict[tuple[int, str, UUID], list[bytes]]) -> None:
        for (priority, kind, tenant), refs in groups.items():
            if not self.usable:
                return
            ring = _ring(priority, kind)
            async with self._guard.act():
                await self._push(keys=[ring, ring + b":" + tenant.bytes], args=[tenant.bytes, DEPTH, TTL_S, *refs])


def _ring(priority: int, kind: str) -> bytes:
    # The braces keep all keys in one slot of a cluster.
    return f"{{penguin-queue}}:{priority}:{kind}".encode()


@contextlib.asynccontextmanager
async def ready_buffer(client: Redis | None, timeout_s: float = TIMEOUT_S) -> AsyncIterator[ReadyBuffer]:
    """The buffer of that server; without one, a buffer that is always empty."""
    buffer = ReadyBuffer(client, timeout_s)
    try:
        yield buffer
    finally:
        await buffer.close()
