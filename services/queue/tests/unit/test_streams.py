"""A worker's stream whose client reads slowly, or not at all: what waits for it is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from penguin_queue.domain.jobs import Lot
from penguin_queue.operations import streams
from penguin_queue.operations.streams import Answer, Reply, Start, Stream, Unread, Words
from penguin_queue.store.leases import Asked

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SIZE = 60_000


class Work:
    """A queue with no end of large jobs, ten to a lease."""

    def __init__(self) -> None:
        self.leased = 0
        self.back = 0
        self._numbers = itertools.count(1)

    def now(self) -> datetime:
        return NOW

    async def lease_lots(self, asked: Asked) -> list[Lot]:
        await asyncio.sleep(0)
        ids = list(itertools.islice(self._numbers, asked.max_jobs))
        self.leased += (count := len(ids))
        payload = b"x" * SIZE
        return [Lot(uuid4(), "x", 2, 7, NOW, ids, [payload] * count, [NOW] * count, [3] * count, [""] * count)]

    async def complete(self, ids: Sequence[int], tokens: Sequence[int], results: dict[int, str]) -> list[int]:
        return []

    def give_back(self, lots: Sequence[Lot]) -> None:
        self.back += sum(len(lot.ids) for lot in lots)


class Announcer:
    @contextlib.contextmanager
    def waiting(self, kinds: tuple[str, ...], wanted: int) -> Iterator[None]:
        yield

    def more_of(self, kinds: tuple[str, ...]) -> None:
        """Nobody else waits."""


class Side:
    """Streams of one process that take ten jobs at a time."""

    def __init__(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(streams, "LEASE_MAX", 10)
        self.unread = Unread()
        self.said: asyncio.Queue[Words] = asyncio.Queue()

    def stream(self, work: Work) -> AsyncGenerator[Reply]:
        anyhow: Any = work
        announcer: Any = Announcer()
        start = Start(("x",), 5000, timedelta(seconds=30), "w")
        return Stream(anyhow, announcer, start, lambda: False, self.unread).run(self._words())

    async def _words(self) -> AsyncIterator[Words]:
        while True:
            yield await self.said.get()


async def idle() -> None:
    """As many turns of the loop as all that can be leased takes."""
    for _ in range(400):
        await asyncio.sleep(0)


async def test_a_client_that_does_not_read_has_few_large_jobs_waiting(monkeypatch: Any) -> None:
    side, work = Side(monkeypatch), Work()
    replies = side.stream(work)
    await anext(replies)
    await idle()
    waiting = work.leased * SIZE
    assert streams.UNREAD_BYTES < waiting < streams.UNREAD_BYTES + 20 * SIZE + 2**16
    # With what is read goes on what is leased; and a word is answered behind what waited before it.
    side.said.put_nowait(Words(1, completed=([1], [7])))
    await idle()
    for _ in range(20):
        if isinstance(await anext(replies), Answer):
            break
    else:
        raise AssertionError
    await idle()
    assert work.leased * SIZE > waiting
    assert side.unread.size >= streams.UNREAD_BYTES
    await replies.aclose()
    assert (side.unread.size, work.back > 50) == (0, True)


async def test_where_many_do_not_read_each_has_one_job_waiting(monkeypatch: Any) -> None:
    monkeypatch.setattr(streams, "UNREAD_ALL_BYTES", 80 * SIZE)
    side = Side(monkeypatch)
    works = [Work() for _ in range(12)]
    opened = [side.stream(work) for work in works]
    # All at once: none finds room that another is about to take.
    reading = [asyncio.ensure_future(anext(replies)) for replies in opened]
    await asyncio.gather(*reading)
    await idle()
    assert sum(work.leased for work in works) <= 80 + len(works)
    assert min(work.leased for work in works) == 1
    # What gRPC has in hand is not read yet, and is there more than once.
    assert side.unread.size >= sum(work.leased for work in works) * SIZE * 3
    # Whoever reads goes on, beside those that do not.
    last = max(range(12), key=lambda n: -works[n].leased)
    for _ in range(5):
        await anext(opened[last])
        await idle()
    assert works[last].leased == 6
    assert sum(work.leased for work in works) <= 80 + len(works) + 5
    for replies in opened:
        await replies.aclose()
    assert side.unread.size == 0
