"""What one process tells the others through Redis, and what becomes of it when Redis is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from uuid import uuid4

import orjson
import pytest
from redis.asyncio import Redis

from penguin_devstack.valkey import ValkeyServer, temporary_valkey
from penguin_queue.domain.turns import Lane, Place
from penguin_queue.operations import news as module
from penguin_queue.operations.news import CHANNEL, News, listening, news
from penguin_queue.store.redis import TIMEOUT_S, redis_at

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
async def process(server: ValkeyServer, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Process]:
    async with redis_at(server.url, timeout_s) as client, news(client) as told:
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
        # None of what is no news, which is all of this tenant.
        assert all(lane.tenant_id.int for lane in other.heard.get_nowait())


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


def row(**wrong: object) -> bytes:
    """News of one lane, with something in it that no job has."""
    right = {"priority": 2, "kind": "k", "tenant": "0" * 32, "rank": 0, "micros": 0, "job_id": 1}
    return orjson.dumps(["x", [list((right | wrong).values())]])


NONSENSE = {
    "nothing": b"", "empty": b"[]", "no object": b"5", "not utf-8": b"\xff", "a short row": b'["x",[[1]]]', "no rows": b'["x",5]',
    "no uuid": row(tenant="no uuid"), "a number as tenant": row(tenant=5), "a list as tenant": row(tenant=[]),
    "priority 0": row(priority=0), "priority 4": row(priority=4), "a priority in words": row(priority="high"),
    "a priority and a half": row(priority=1.5), "no priority": row(priority=None), "true as priority": row(priority=True),
    "no kind": row(kind=None), "a kind that PostgreSQL cannot store": row(kind="a\0b"), "a long kind": row(kind="k" * 201),
    "a rank beyond": row(rank=2**31), "before time": row(micros=-1), "past all time": row(micros=2**62),
    "a number as text": row(job_id="1"), "no job's number": row(job_id=0), "too great a number": row(job_id=2**63),
    "too many": orjson.dumps(["x", [[2, f"k{n}", "0" * 32, 0, 0, 1] for n in range(module.WAITING_MAX + 1)]]),
}  # fmt: skip


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_what_is_no_news_is_passed_over(nonsense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who stops listening does not come back while this is played; nobody does because the machine is slow.
    monkeypatch.setattr(module, "OPEN_S", 3600.0)
    with temporary_valkey() as server:
        async with process(server, 10) as one, process(server, 10) as other, redis_at(server.url, 10) as client:
            assert client is not None
            await told_until_heard(one, other)
            await client.publish(CHANNEL, NONSENSE[nonsense])
            await told_until_heard(one, other)


async def test_what_is_no_news_is_said_in_the_log_and_does_not_fill_it(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_valkey() as server:
        async with process(server) as one, process(server) as other, redis_at(server.url, timeout_s=10) as client:
            assert client is not None
            await told_until_heard(one, other)
            caplog.clear()
            for _ in range(50):
                await client.publish(CHANNEL, row(tenant=5))
            await told_until_heard(one, other)
            await told_until_heard(other, one)
    # Each of the two has heard all of them.
    assert caplog.text.count("news that cannot be used") == 2


async def test_a_defect_in_hearing_costs_that_news_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "OPEN_S", 3600.0)
    defects = iter([KeyError("a word that nobody is to read")])

    def heard(lanes: Mapping[Lane, Place]) -> None:
        if (defect := next(defects, None)) is not None:
            raise defect
        other.heard.put_nowait(lanes)

    with temporary_valkey() as server:
        async with process(server) as one, redis_at(server.url) as client, news(client) as told:
            other = Process(told)
            async with listening(told, heard):
                await told_until_heard(one, other)
    assert "KeyError" in caplog.text
    assert "nobody is to read" not in caplog.text


async def test_listening_begins_anew_whatever_ends_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hears, failures = News._hear, iter([RuntimeError("once"), ZeroDivisionError("and again")])

    async def fails_first(told: News, client: Redis, heard: module.Heard) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        await hears(told, client, heard)

    monkeypatch.setattr(News, "_hear", fails_first)
    monkeypatch.setattr(module, "OPEN_S", 0.01)
    with temporary_valkey() as server:
        async with process(server) as one, process(server) as other:
            await told_until_heard(one, other)
    assert caplog.text.count("hearing news failed") == 2


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
