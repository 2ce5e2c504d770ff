"""A worker's stream: keeps its places filled with leased jobs, and carries out its words on them, each on its own side.

Jobs go out as columns. While nothing is ready the stream waits, and a producer of this process may hand it jobs in the very
transaction that stores them: they come leased, and cost no second look at the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from penguin_chassis import calls
from penguin_chassis.parting import parted
from penguin_queue.domain.jobs import Failure, Handover, LeaseRef, Lot, Progress, Snooze
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.work import POLL_MAX_S, Work
from penguin_queue.store.leases import Asked, new_token

# One act of a stream may take this long, as a call would (seconds).
ACT_S = 10.0
# The largest lease at once.
LEASE_MAX = 1000
# Jobs of a reply (bytes): a message has 4 MiB, and one that is larger would break the stream with the leases taken.
REPLY_BYTES = 2 * 1024 * 1024
# While there is more to be had a lease waits for a fourth of the places, but no longer than so with any of them free (seconds).
GATHER_S = 0.02
# Replies that wait for the client to read them, and their jobs (bytes), of one stream and of all streams of the process together;
# then nothing more is leased. Where all together have too many, a stream may still have one job waiting: whoever reads goes on.
# A lease under way counts by what the stream's jobs have weighed lately: where they grow all at once, the leases under way bring
# up to 2 MiB each beyond, once.
REPLIES_MAX = 64
UNREAD_BYTES = 4 * 1024 * 1024
UNREAD_ALL_BYTES = 64 * 1024 * 1024
# What gRPC has in hand it has as a message and as its bytes, beside the jobs themselves.
COPIES = 3
# The most that a job takes (bytes): a payload, and what there is beside it.
LARGEST_BYTES = 65 * 1024
# What a job is taken to weigh in a lease under way: so many times as much as lately, and no less than so much (bytes).
DOUBT = 2
SMALLEST_BYTES = 256
# What one lease of lighter jobs leaves of what is known of heavier ones before.
REMEMBERED = 0.25
AWAY_MIN_S, AWAY_MAX_S = 0.05, 1.0

Columns = tuple[Sequence[int], Sequence[int]]
NONE: Columns = ((), ())


@dataclass(frozen=True)
class Start:
    """What a worker asks of its stream."""

    kinds: tuple[str, ...]
    max_in_flight: int
    lease: timedelta
    worker_id: str


@dataclass(frozen=True)
class Words:
    """What a worker says of jobs in its hands, as columns of ids and tokens where there is no more to say."""

    number: int
    completed: Columns = NONE
    failures: Sequence[Failure] = ()
    snoozes: Sequence[Snooze] = ()
    extended: Columns = NONE
    released: Columns = NONE
    # By the ids of jobs among the extended, and among the completed.
    progress: Mapping[int, Progress] = field(default_factory=dict)
    results: Mapping[int, str] = field(default_factory=dict)


@dataclass
class Answer:
    """What became of words: counts, and the jobs whose lease is lost."""

    number: int
    lost: list[int] = field(default_factory=list)
    until: datetime | None = None
    completed: int = 0
    retried: int = 0
    dead: int = 0
    snoozed: int = 0
    released: int = 0
    # Jobs that ended as cancelled, and the ids of those still in hand whose cancellation is wished.
    cancelled: int = 0
    cancelling: list[int] = field(default_factory=list)
    # Nothing more is leased here. Told unasked, too, under the number 0: a worker that has nothing to say is to move on.
    draining: bool = False


Reply = list[Lot] | Answer


@dataclass
class Unread:
    """What waits in all streams of a process for their clients to read it, what gRPC has in hand of it, and what leases under way
    may bring (bytes)."""

    size: int = 0

    def room(self, size: int) -> bool:
        """Whether so much may come."""
        return self.size + size <= UNREAD_ALL_BYTES

    @contextlib.contextmanager
    def expecting(self, size: int) -> Iterator[None]:
        """Keep room for so much while inside: leases of many streams are under way at once, and each finds the room of all."""
        self.size += size
        try:
            yield
        finally:
            self.size -= size


class Stream:
    """One worker at the queue."""

    def __init__(
        self, work: Work, announcer: Announcer, start: Start, draining: Callable[[], bool], unread: Unread
    ) -> None:
        self._work = work
        self._announcer = announcer
        self._start = start
        self._draining = draining
        self._replies: asyncio.Queue[Reply | Exception | None] = asyncio.Queue()
        self._unread = 0
        self._unread_of_all = unread
        # What a job has weighed lately (bytes), once there was one.
        self._weight: float | None = None
        # Jobs in the worker's hands, by the last token they came with.
        self._held: dict[int, int] = {}
        # Places promised to jobs that are being stored.
        self._promised = 0
        self._waiting = False
        self._closed = False
        # Rung whenever a place, or room for a reply, may have come free.
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        """Places that a lease could fill now."""
        return self._start.max_in_flight - len(self._held) - self._promised

    async def run(self, words: AsyncIterator[Words]) -> AsyncGenerator[Reply]:
        """Replies until the words end, or for ever; what the worker still holds then is left to its leases."""
        tasks = [asyncio.create_task(self._telling(work)) for work in (self._hear(words), self._fill())]
        try:
            while (reply := await self._replies.get()) is not None:
                self._freed.set()
                if isinstance(reply, Exception):
                    raise reply
                if not isinstance(reply, list):
                    yield reply
                    continue
                size = _size(reply)
                try:
                    # Until it asks for the next one, gRPC has not sent this one off.
                    with self._unread_of_all.expecting(size * (COPIES - 1)):
                        yield reply
                finally:
                    self._weigh(-size)
                    self._freed.set()
        finally:
            self._closed = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._give_back_unsent()

    async def _telling(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised where the stream is answered
            self._replies.put_nowait(error)

    def offer(self, kind: str, count: int) -> Handover | None:
        """A lease for jobs about to be stored, if this stream waits for such and has the places."""
        if not self._waiting or count > self.free or self._clogged or self._draining():
            return None
        if not self._unread_of_all.room(REPLY_BYTES):
            return None
        if self._start.kinds and kind not in self._start.kinds:
            return None
        self._promised += count
        return Handover(new_token(), self._work.now() + self._start.lease, self._start.worker_id)

    def deliver(self, promised: int, lots: list[Lot]) -> bool:
        """What became of an offer: the jobs that were stored, or none. False where the worker is gone meanwhile."""
        self._promised -= promised
        self._freed.set()
        if lots and not self._closed:
            self._put(lots)
        return not self._closed

    @property
    def _clogged(self) -> bool:
        """Whether the client does not read what it is sent."""
        if self._replies.qsize() >= REPLIES_MAX or self._unread >= UNREAD_BYTES:
            return True
        return self._unread > 0 and not self._unread_of_all.room(REPLY_BYTES)

    def _weigh(self, size: int) -> None:
        self._unread += size
        self._unread_of_all.size += size

    async def _until_freed(self, longest_s: float = POLL_MAX_S) -> None:
        self._freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._freed.wait()

    def _give_back_unsent(self) -> None:
        """Jobs that the worker has never seen are nobody's: ready again at once."""
        while not self._replies.empty():
            reply = self._replies.get_nowait()
            if isinstance(reply, list):
                self._weigh(-_size(reply))
                self._work.give_back(reply)

    def _put(self, lots: list[Lot]) -> None:
        for lot in lots:
            self._held.update(dict.fromkeys(lot.ids, lot.token))
        self._learn(_size(lots) / sum(len(lot.ids) for lot in lots))
        for message in _messages(lots):
            self._weigh(_size(message))
            self._replies.put_nowait(message)

    def _learn(self, weight: float) -> None:
        """Go by what jobs weigh (bytes): at once by heavier ones, and by lighter ones after some leases."""
        before = weight if self._weight is None else self._weight
        self._weight = max(weight, weight + (before - weight) * REMEMBERED)

    def _expected(self, jobs: int) -> int:
        """What a lease of so many is taken to bring (bytes); as much as it can where nothing is known."""
        each = LARGEST_BYTES if self._weight is None else max(DOUBT * self._weight, SMALLEST_BYTES)
        return min(int(jobs * min(each, LARGEST_BYTES)), REPLY_BYTES)

    async def _hear(self, words: AsyncIterator[Words]) -> None:
        async for each in words:
            with calls.within(ACT_S):
                answer = await self._act(each)
            # Answers are small: they wait for many replies, and not for large ones.
            while self._replies.qsize() >= REPLIES_MAX:
                await self._until_freed()
            self._replies.put_nowait(answer)
            self._freed.set()
        self._replies.put_nowait(None)

    async def _act(self, words: Words) -> Answer:
        answer = Answer(words.number, draining=self._draining())
        if words.completed[0]:
            ids, tokens = words.completed
            lost = await self._work.complete(ids, tokens, words.results)
            self._drop(zip(ids, tokens, strict=True))
            answer.completed = len(ids) - len(lost)
            answer.lost += lost
        if words.failures:
            retried, dead, cancelled = await self._work.fail(words.failures)
            answer.retried, answer.dead = len(retried), len(dead)
            self._told(answer, [failure.lease for failure in words.failures], retried | dead, cancelled)
        if words.snoozes:
            off, cancelled = await self._work.snooze(words.snoozes)
            answer.snoozed = len(off)
            self._told(answer, [snooze.lease for snooze in words.snoozes], off, cancelled)
        if words.released[0]:
            back, cancelled = await self._work.release(*words.released)
            answer.released = len(back)
            self._told(answer, list(map(LeaseRef, *words.released)), back, cancelled)
        if words.extended[0]:
            refs = list(map(LeaseRef, *words.extended))
            answer.until, kept, answer.cancelling = await self._work.extend(refs, self._start.lease, words.progress)
            gone = [ref for ref in refs if ref not in kept]
            self._drop(gone)
            answer.lost += [ref.job_id for ref in gone]
        return answer

    def _told(
        self, answer: Answer, spoken_of: Sequence[LeaseRef], counted: set[LeaseRef], cancelled: set[LeaseRef]
    ) -> None:
        self._drop(spoken_of)
        answer.cancelled += len(cancelled)
        answer.lost += [ref.job_id for ref in spoken_of if ref not in counted and ref not in cancelled]

    def _drop(self, leases: Iterable[tuple[int, int]]) -> None:
        """These are spoken of. A word under a lease that is lost says nothing of the one that came after it."""
        for job_id, token in leases:
            if self._held.get(job_id) == token:
                del self._held[job_id]

    async def _fill(self) -> None:
        away = AWAY_MIN_S
        more = False
        while await self._until_worth_it(more):
            try:
                with calls.within(ACT_S):
                    more = await self._lease()
                away = AWAY_MIN_S
            except Exception as error:
                if not self._work.passing(error):
                    raise
                await asyncio.sleep(away * random.uniform(0.5, 1.0))
                away = min(away * 2, AWAY_MAX_S)
        self._replies.put_nowait(Answer(0, draining=True))

    async def _until_worth_it(self, more: bool) -> bool:
        """Wait for the places of a lease; False where nothing more is leased here. While there is more to be had that is a fourth
        of all, as small leases cost as much each; but where jobs take long, fewer do not stay empty."""
        clock = asyncio.get_running_loop().time
        least = max(1, self._start.max_in_flight // 4) if more else 1
        ends: float | None = None
        while not self._draining():
            if self.free < 1 or self._clogged:
                ends = None
                await self._until_freed()
                continue
            ends = clock() + GATHER_S if ends is None else ends
            left = ends - clock()
            if self.free >= least or left <= 0:
                return True
            await self._until_freed(left)
        return False

    async def _lease(self) -> bool:
        """Lease what there is room for, or wait a while for something to lease; whether there may be more."""
        wanted = min(self.free, LEASE_MAX)
        if not self._unread_of_all.room(self._expected(wanted)):
            wanted = 1
        with self._announcer.waiting(self._start.kinds, wanted) as waiter:
            with self._unread_of_all.expecting(self._expected(wanted)):
                lots = await self._work.lease_lots(
                    Asked(self._start.kinds, wanted, self._work.now() + self._start.lease, self._start.worker_id)
                )
            if not lots:
                with self._announcer.open_to_handover(self):
                    self._waiting = True
                    try:
                        await waiter.wait(POLL_MAX_S * random.uniform(0.4, 0.6))
                    finally:
                        self._waiting = False
                return False
        self._put(lots)
        if sum(len(lot.ids) for lot in lots) < wanted:
            return False
        self._announcer.more_of(self._start.kinds)
        return True


def _messages(lots: Sequence[Lot]) -> Iterator[list[Lot]]:
    """Lots in replies that fit into a message."""
    return parted((part for lot in lots for part in lot.parts(REPLY_BYTES)), lambda part: part.size, REPLY_BYTES)


def _size(lots: Sequence[Lot]) -> int:
    return sum(lot.size for lot in lots)
