"""What one process tells the others through Redis, and what becomes of it when Redis is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from penguin_devstack.valkey import ValkeyServer, temporary_valkey
from penguin_queue.domain.lanes import Lane, Place
from penguin_queue.operations import news as module
from penguin_queue.operations.news import CHANNEL, News, listening, news
from penguin_queue.store.redis import redis_at

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
PATIENCE_S = 20.0


class Process:
    """A process that tells and hears."""

    def __init__(self, told: News) -> None:
        self.told = told
        self.heard: asyncio.Queue[Mapping[Lane, Place]] = asyncio.Queue()

    def tell(self, n: int = 1) -> dict[Lane, Place]:
        lanes = {Lane(2, "k", uuid4()): Place(-3, AT, n)}
        self.told.tell(lanes)
        return lanes

    async def hears(self) -> Mapping[Lane, Place]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.heard.get()


@contextlib.asynccontextmanager
async def process(server: ValkeyServer) -> AsyncIterator[Process]:
    async with redis_at(server.url) as client, news(client) as told:
        opened = Process(told)
        async with listening(told, opened.heard.put_nowait):
            yield opened


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for others with each telling."""
    monkeypatch.setattr(module, "ALONE_S", 0.0)


async def told_until_heard(one: Process, other: Process) -> None:
    """Tell until the other has heard: it may just be coming up."""
    async with asyncio.timeout(PATIENCE_S):
        while other.heard.empty():
            one.tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    other.heard.put_nowait(await other.heard.get())
    while not other.heard.empty():
        other.heard.get_nowait()


async def test_others_hear_of_lanes_and_who_tells_does_not() -> None:
    with temporary_valkey() as server:
        async with process(server) as one, process(server) as other:
            await told_until_heard(one, other)
            said = one.tell(7)
            while (heard := await other.hears()) != said:
                pass
            assert heard == said
            assert one.heard.empty()


async def test_a_server_that_is_killed_or_frozen_is_taken_up_again() -> None:
    with temporary_valkey() as server:
        async with process(server) as one, process(server) as other:
            await told_until_heard(one, other)
            server.freeze()
            one.tell()
            server.thaw()
            await told_until_heard(one, other)
            server.kill()
            one.tell()
            server.start()
            await told_until_heard(one, other)


async def test_what_is_no_news_is_passed_over() -> None:
    with temporary_valkey() as server:
        async with process(server) as one, process(server) as other, redis_at(server.url, timeout_s=10) as client:
            assert client is not None
            await told_until_heard(one, other)
            for nonsense in (b"", b"[]", b'["x",[[1]]]', b'["x",[[2,"k","no uuid",0,0,1]]]', b"\xff"):
                await client.publish(CHANNEL, nonsense)
            await told_until_heard(one, other)


async def test_nobody_is_told_twice_a_second_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE_S", 3600.0)
    with temporary_valkey() as server:
        async with redis_at(server.url, timeout_s=10) as client, news(client) as told:
            one = Process(told)
            one.tell()
            assert told._telling is not None
            await told._telling
            one.tell()
            assert told._telling is None
