"""The ready buffer on a real server: what it hands out, and how it behaves when the server does not."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from penguin_devstack.valkey import ValkeyServer, temporary_valkey
from penguin_queue.domain.jobs import Ready
from penguin_queue.store.buffer import DEPTH, ReadyBuffer, ready_buffer
from penguin_queue.store.redis import OPEN_S, TIMEOUT_S, redis_at

AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    with temporary_valkey() as server:
        yield server


@pytest.fixture
async def buffer(own_valkey: ValkeyServer) -> AsyncIterator[ReadyBuffer]:
    # Patient: what it holds is asked about here, and not how soon it gives up on a busy machine.
    async with redis_at(own_valkey.url, timeout_s=10) as client, ready_buffer(client, timeout_s=10) as opened:
        yield opened


@pytest.fixture
async def hasty(own_valkey: ValkeyServer) -> AsyncIterator[ReadyBuffer]:
    async with redis_at(own_valkey.url) as client, ready_buffer(client) as opened:
        yield opened


def ready(tenant: UUID, *, kind: str = "k", priority: int = 2) -> Ready:
    return Ready(tenant, random.getrandbits(62), kind, priority, AT)


async def offered(buffer: ReadyBuffer, jobs: list[Ready]) -> None:
    for _ in range(10):
        buffer.offer(jobs)
        await asyncio.gather(*buffer._pushes)
        if buffer.usable:
            return
        await asyncio.sleep(OPEN_S)  # the machine was too busy for its patience
    raise AssertionError("the buffer takes nothing")


async def test_references_come_high_priority_first_and_tenants_in_turn(buffer: ReadyBuffer) -> None:
    first, second = uuid4(), uuid4()
    jobs = [ready(first), ready(first), ready(first), ready(second), ready(second, priority=1)]
    await offered(buffer, [*jobs, ready(second, kind="other")])
    found = await buffer.take(("k",), 4)
    assert found == [jobs[4].id, jobs[0].id, jobs[3].id, jobs[1].id]
    assert await buffer.take(("k",), 4) == [jobs[2].id]
    assert await buffer.take(("k",), 4) == []


async def test_a_tenants_references_are_bounded(buffer: ReadyBuffer) -> None:
    tenant = uuid4()
    await offered(buffer, [ready(tenant) for _ in range(DEPTH - 1)])
    await offered(buffer, [ready(tenant) for _ in range(10)])
    assert len(await buffer.take(("k",), 2 * DEPTH)) == DEPTH


@pytest.mark.parametrize("trouble", ["kill", "freeze"])
async def test_a_server_in_trouble_is_left_out_and_taken_up_again(
    own_valkey: ValkeyServer, hasty: ReadyBuffer, trouble: str
) -> None:
    tenant = uuid4()
    await offered(hasty, [ready(tenant)])
    getattr(own_valkey, trouble)()
    started = time.monotonic()
    assert await hasty.take(("k",), 1) == []
    assert await hasty.take(("k",), 1) == []  # not even asked
    assert time.monotonic() - started < 5 * TIMEOUT_S
    assert not hasty.usable
    own_valkey.start() if trouble == "kill" else own_valkey.thaw()
    await asyncio.sleep(OPEN_S)
    job = ready(tenant)
    await offered(hasty, [job])
    assert job.id in await hasty.take(("k",), 10)
