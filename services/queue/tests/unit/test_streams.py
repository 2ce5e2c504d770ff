"""A worker's stream: its places beside a backlog, and what waits for a client that reads slowly, or not at all, which is
bounded."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from penguin_queue.domain.jobs import LeaseRef, Lot, Progress
from penguin_queue.operations import streams
from penguin_queue.operations.streams import Answer, Reply, Start, Stream, Unread, Words
from penguin_queue.store.leases import Asked

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SIZE = 60_000


class Work:
    """A queue with no end of jobs, large ones where nothing else is said; its leases end while it is open."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.leased = 0
        self.back = 0
        self.asked: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.changed = asyncio.Event()
        self._numbers = itertools.count(1)

    def now(self) -> datetime:
        return NOW

    async def lease_lots(self, asked: Asked) -> list[Lot]:
        self.asked.append(asked.max_jobs)
        await asyncio.sleep(0)
        await self.open.wait()
        ids = list(itertools.islice(self._numbers, asked.max_jobs))
        self.leased += (count := len(ids))
        self.changed.set()
        payload = b"x" * self.size
        return [Lot(uuid4(), "x", 2, 7, NOW, ids, [payload] * count, [NOW] * count, [3] * count, [""] * count)]

    async def until(self, leased: int) -> None:
        """Until so many are leased."""
        async with asyncio.timeout(5):
            while self.leased < leased:
                self.changed.clear()
                await self.changed.wait()

    async def complete(self, ids: Sequence[int], tokens: Sequence[int], results: dict[int, str]) -> list[int]:
        return []

    async def release(self, ids: Sequence[int], tokens: Sequence[int]) -> tuple[set[LeaseRef], set[LeaseRef]]:
        return set(), set()

    async def extend(
        self, leases: Sequence[LeaseRef], duration: timedelta, told: Mapping[int, Progress]
    ) -> tuple[datetime, set[LeaseRef], list[int]]:
        return NOW, set(), []

    def give_back(self, lots: Sequence[Lot]) -> None:
        self.back += sum(len(lot.ids) for lot in lots)


class Announcer:
    @contextlib.contextmanager
    def waiting(self, kinds: tuple[str, ...], wanted: int) -> Iterator[None]:
        yield

    def more_of(self, kinds: tuple[str, ...]) -> None:
        """Nobody else waits."""


def stream_of(work: Work, unread: Unread, places: int) -> Stream:
    anyhow: Any = work
    announcer: Any = Announcer()
    return Stream(anyhow, announcer, Start(("x",), places, timedelta(seconds=30), "w"), lambda: False, unread)


class Side:
    """Streams of one process that take ten jobs at a time."""

    def __init__(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(streams, "LEASE_MAX", 10)
        self.unread = Unread()
        self.said: asyncio.Queue[Words] = asyncio.Queue()

    def stream(self, work: Work) -> AsyncGenerator[Reply]:
        return stream_of(work, self.unread, 5000).run(self._words())

    async def _words(self) -> AsyncIterator[Words]:
        while True:
            yield await self.said.get()


class Worker:
    """A stream whose client reads all it is sent, and says what it is told to."""

    def __init__(self, work: Work, unread: Unread, places: int) -> None:
        self.work = work
        self.stream = stream_of(work, unread, places)
        self.held: dict[int, int] = {}
        self.came = asyncio.Event()
        self.said: asyncio.Queue[Words] = asyncio.Queue()
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()

    async def run(self) -> None:
        async with contextlib.aclosing(self.stream.run(self._words())) as replies:
            async for reply in replies:
                if isinstance(reply, Answer):
                    self.answers.put_nowait(reply)
                    continue
                for lot in reply:
                    self.held.update(dict.fromkeys(lot.ids, lot.token))
                self.came.set()

    async def _words(self) -> AsyncIterator[Words]:
        while True:
            yield await self.said.get()

    async def say(self, words: Words) -> Answer:
        self.said.put_nowait(words)
        async with asyncio.timeout(5):
            return await self.answers.get()

    async def until(self, held: int) -> None:
        """Until so many are in hand."""
        async with asyncio.timeout(5):
            while len(self.held) < held:
                self.came.clear()
                await self.came.wait()

    async def complete(self, count: int) -> None:
        await self.until(count)
        ids = list(self.held)[:count]
        await self.say(Words(1, completed=(ids, [self.held.pop(job_id) for job_id in ids])))


@contextlib.asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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


async def test_few_free_places_do_not_stay_empty_beside_a_backlog() -> None:
    """The other jobs of the stream may take hours: nothing else comes free."""
    work = Work(2)
    worker = Worker(work, Unread(), 64)
    async with running(worker):
        await work.until(64)
        await worker.complete(15)
        await work.until(79)
        await worker.complete(1)
        await work.until(80)


async def test_beside_a_backlog_a_lease_waits_for_a_fourth_of_the_places(monkeypatch: Any) -> None:
    monkeypatch.setattr(streams, "GATHER_S", 3600.0)
    work = Work(2)
    worker = Worker(work, Unread(), 64)
    async with running(worker):
        await work.until(64)
        for _ in range(15):
            await worker.complete(1)
        await idle()
        assert work.leased == 64
        await worker.complete(1)
        await work.until(80)
    assert work.asked == [64, 16]


async def test_many_streams_of_small_jobs_lease_in_full_at_once_and_of_large_ones_as_many_as_there_is_room_for() -> (
    None
):
    unread = Unread()
    workers = [Worker(Work(100), unread, 64) for _ in range(100)]

    async def fill() -> None:
        for worker in workers:
            worker.work.open.set()
        for worker in workers:
            await worker.until(64)

    async def asked_at_once() -> list[int]:
        for worker in workers:
            worker.work.asked.clear()
            worker.work.open.clear()
        for worker in workers:
            await worker.complete(64)
        await idle()
        return sorted(n for worker in workers for n in worker.work.asked)

    async with running(*workers):
        await fill()
        assert await asked_at_once() == [64] * 100
        assert unread.size < streams.UNREAD_ALL_BYTES / 4
        # They grow: from the next leases on these count by it.
        for worker in workers:
            worker.work.size = SIZE
        await fill()
        in_full = streams.UNREAD_ALL_BYTES // streams.REPLY_BYTES
        found = await asked_at_once()
        assert found == [1] * (100 - found.count(64)) + [64] * found.count(64)
        assert in_full - 3 <= found.count(64) <= in_full
    assert unread.size == 0


@pytest.mark.parametrize("word", ["completed", "released", "extended"])
async def test_a_word_under_a_lost_lease_leaves_the_later_lease_its_place(word: str) -> None:
    work = Work(2)
    worker = Worker(work, Unread(), 1)
    # The one place is taken twice: the first lease ran out, and the job was leased again.
    for token in (1, 2):
        worker.stream.deliver(0, [Lot(UUID(int=1), "x", 2, token, NOW, [5], [b"{}"], [NOW], [3], [""])])
    async with running(worker):
        leases: Any = {word: ([5], [1])}
        await worker.say(Words(1, **leases))
        await idle()
        assert (worker.stream.free, work.leased) == (0, 0)
        leases = {word: ([5], [2])}
        await worker.say(Words(2, **leases))
        await work.until(1)
