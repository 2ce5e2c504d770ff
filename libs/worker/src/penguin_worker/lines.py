"""A line to the queue: some kinds, the places for their jobs, and one stream after the other that fills them.

While the queue is away it idles; jobs in hand go on, and what is to be said of them waits for the next stream, which may
say it, for tokens fence and not streams. A stream has fixed kinds and places: when others are wanted, it is left in order
and another one opened. So it is where the queue says that its process is draining.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_worker.acknowledging import Acknowledger
from penguin_worker.config import WorkerConfig
from penguin_worker.jobs import Job, Verdict, unpacked
from penguin_worker.standing import Standing
from penguin_worker.streaming import LIFE_S, WorkStream, ended

# A kind that nobody enqueues: a stream of it is one of words alone.
NOTHING = "worker.nothing"
# The contract's limit.
KINDS_MAX = 100
# How long the end of a stream may take, places are gathered for a wider one, and held-up kinds are left alone (seconds).
FINISH_S = 5.0
GATHER_S = 0.25
LOOK_S = 0.1
# A stream that ends after this long was no failure: the queue ends streams that have lived long enough, and goes away.
LIVED_S = 1.0


@dataclass(frozen=True)
class _Asked:
    """What a stream was opened for; without kinds or places, for words alone."""

    kinds: tuple[str, ...]
    places: int


class Line:
    """Fills its places with jobs of its kinds and hands them to `take`; says what becomes of them.

    `settled` is called with every verdict, and `lose` with jobs in hand that are leased to us again: they are surely lost.
    """

    def __init__(
        self,
        queue: Tier,
        config: WorkerConfig,
        kinds: Sequence[str],
        places: int,
        kind_standing: Standing,
        queue_standing: Standing,
        take: Callable[[list[Job]], None],
        settled: Callable[[Line, Job, Verdict], None],
        lose: Callable[[Sequence[Job]], None],
    ) -> None:
        if len(kinds) > KINDS_MAX:
            raise ValueError(
                f"a stream has {KINDS_MAX} kinds at most: give some of them a limit, and so one of their own"
            )
        self._queue = queue
        self._config = config
        self._kinds = kinds
        self._places = places
        self._kind_standing = kind_standing
        self._queue_standing = queue_standing
        self._take = take
        self._settled = partial(settled, self)
        self._lose = lose
        # A job that was lost may be leased to us again before its first handler has ended, or its word is answered: then
        # the lease before is an earlier one.
        self._in_hand: dict[int, Job] = {}
        self._earlier: set[Job] = set()
        self._stream: WorkStream | None = None
        self._opened = asyncio.Event()
        # Rung by whatever may ask for another stream.
        self._changed = asyncio.Event()
        self._halted = False
        # Set while nothing is in hand, nor any stream open that may bring something.
        self.quiet = asyncio.Event()
        self._taking = False
        self._settle_down()
        self._acknowledger = Acknowledger(self._open_stream, queue_standing, self._gone)
        # For jobs that are done, which is most of them: no step more than is needed.
        self.say_done: Callable[[tuple[Job, None]], None] = self._acknowledger.say

    def jobs(self) -> tuple[Job, ...]:
        """Jobs in hand: leased, and no word on them answered. May be asked in any thread."""
        # Made in one step each, as far as other threads can see.
        return (*self._in_hand.values(), *self._earlier)

    def say(self, job: Job, verdict: Verdict) -> None:
        """What became of a job."""
        self._changed.set()
        self._acknowledger.say((job, verdict))

    def halt(self) -> None:
        """Take no more jobs; what is in hand may still be spoken of."""
        self._halted = True
        self._changed.set()

    async def drain(self, within_s: float) -> None:
        """Wait until everything is said, or give it up after so many seconds."""
        await self._acknowledger.drain(within_s)

    async def run(self) -> None:
        """Hold one stream after the other, for ever."""
        while True:
            asked = self._wanted()
            self._settle_down()
            if not (asked.kinds and asked.places) and not self._in_hand and not self._earlier:
                await self._change(LOOK_S if not self._halted else None)
                continue
            opened: float | None = None
            self._taking = bool(asked.kinds and asked.places)
            self._settle_down()
            try:
                async with WorkStream.opened(self._queue, self._start(asked)) as stream:
                    opened = time.monotonic()
                    await self._hold(stream, asked)
                self._taking = False
                if stream.draining and time.monotonic() - opened < LIVED_S:
                    # There may be no other process to go to just now.
                    self._settle_down()
                    await asyncio.sleep(self._queue_standing.failed("leases", f"{self._queue.name}.DRAINING"))
            except TierError as error:
                self._taking = False
                self._settle_down()
                if opened is not None and time.monotonic() - opened > LIVED_S:
                    await asyncio.sleep(random.uniform(0, GATHER_S))
                else:
                    await asyncio.sleep(self._queue_standing.failed("leases", f"{error.tier}.{error.reason}"))

    def _wanted(self) -> _Asked:
        """What a stream that is opened now is to be asked for."""
        kinds = [] if self._halted else self._kind_standing.present(self._kinds)
        return _Asked(tuple(kinds), max(0, self._places - len(self._in_hand) - len(self._earlier)))

    def _start(self, asked: _Asked) -> pb.WorkStart:
        for_jobs = asked.kinds and asked.places
        start = pb.WorkStart(
            kinds=asked.kinds if for_jobs else [NOTHING],
            max_in_flight=asked.places if for_jobs else 1,
            worker_id=self._config.worker_id,
        )
        start.lease_duration.FromMilliseconds(int(self._config.lease_s * 1000))
        return start

    async def _hold(self, stream: WorkStream, asked: _Asked) -> None:
        """Live with a stream until it ends, or another is wanted; raises TierError where it breaks off."""
        ends = time.monotonic() + LIFE_S * random.uniform(0.7, 0.9)
        # Not before: a queue that lets us in and drops us at once is to be left alone for longer each time.
        lived = asyncio.get_running_loop().call_later(LIVED_S, self._queue_standing.answered, "leases")
        stream.on_draining = self._changed.set
        reading = asyncio.create_task(self._read(stream))
        reading.add_done_callback(lambda _: self._changed.set())
        self._stream = stream
        self._opened.set()
        try:
            while not (reading.done() or stream.draining or time.monotonic() > ends or await self._another(asked)):
                looking = LOOK_S if len(asked.kinds) < len(self._kinds) and not self._halted else FINISH_S
                await self._change(looking)
            if stream.draining:
                # Not every worker at once; and words that are being gathered go out by this one yet.
                await asyncio.wait([reading], timeout=random.uniform(GATHER_S / 2, GATHER_S))
            self._leave()
            if reading.done():
                reading.result()
                raise ended(self._queue.name)
            # What the queue has leased for us meanwhile comes yet; cut off, it would be lost until its lease is over.
            await stream.finish()
            await asyncio.wait([reading], timeout=FINISH_S)
            if reading.done():
                reading.result()
        finally:
            self._leave()
            lived.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _another(self, asked: _Asked) -> bool:
        """Whether a stream for other kinds, or for many more places, is wanted."""
        now = self._wanted()
        if now.kinds != asked.kinds:
            return True
        # A stream that was opened with jobs in hand has the fewer places; more of them are worth another stream.
        wide = asked.places + max(1, self._places // 4)
        if not now.kinds or now.places < wide:
            return False
        await asyncio.sleep(GATHER_S)
        return self._wanted().places >= wide

    def _leave(self) -> None:
        self._stream = None
        self._opened.clear()

    async def _open_stream(self) -> WorkStream:
        """The stream that is open, or the next one."""
        while self._stream is None:
            self._changed.set()
            await self._opened.wait()
        return self._stream

    async def _read(self, stream: WorkStream) -> None:
        async for lot in stream.lots():
            self._queue_standing.answered("leases")
            jobs = unpacked(lot, time.monotonic() + self._config.lease_s, self._settled)
            ids = [job.id for job in jobs]
            if not self._in_hand.keys().isdisjoint(ids):
                self._leased_again(ids)
            self._in_hand.update(zip(ids, jobs, strict=True))
            self._settle_down()
            self._take(jobs)

    def _leased_again(self, ids: Sequence[int]) -> None:
        """Before the heartbeats see the later leases it is known that the earlier ones are lost."""
        earlier = [job for job_id in ids if (job := self._in_hand.get(job_id)) is not None]
        self._lose(earlier)
        for job in earlier:
            # Settled or not: the queue names lost jobs by their ids, and these are to mean the later leases.
            job.lost = True
        self._earlier.update(earlier)

    def _gone(self, jobs: Sequence[Job]) -> None:
        in_hand = self._in_hand
        for job in jobs:
            if in_hand.get(job.id) is job:
                del in_hand[job.id]
        self._earlier.difference_update(jobs)
        self._settle_down()
        self._changed.set()

    def _settle_down(self) -> None:
        if self._in_hand or self._earlier or self._taking:
            self.quiet.clear()
        else:
            self.quiet.set()

    async def _change(self, within_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        self._changed.clear()
