"""Runs leased jobs, and gives them up in order. It knows no handler by name, and the queue only by its lines.

The number of jobs in hand is bounded. A job whose lease is lost is dropped unspoken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_worker.config import WorkerConfig
from penguin_worker.deadlines import Deadlines
from penguin_worker.heartbeats import Heartbeats
from penguin_worker.jobs import Away, Job, NotDone, Reject, Release, Retry, Snooze, Verdict
from penguin_worker.kinds import Kind, Many, One, keeping
from penguin_worker.lines import Line
from penguin_worker.middleware import Middleware, around, tracing
from penguin_worker.running import Runner, Single
from penguin_worker.standing import Standing

log = logging.getLogger(__name__)

# How long handlers may take to end once they are cancelled, and words to be said after that (seconds).
GRACE_S = 5.0
SNOOZE_MIN_S = 0.5
SNOOZE_MAX_S = 5.0
# The same where a tier has said for how long: it is believed within these. What says more than a day is looked at once a day, for
# nobody can tell it from a slip, and a job of which nothing is heard for weeks is as good as lost.
SAID_MIN_S = 0.1
SAID_MAX_S = 24 * 3600.0
# Not all who were told the same come back at once; but nobody comes back much later than told (seconds).
SPREAD_MAX_S = 60.0
# Answers that say nothing of the job: not there, too busy, too slow.
NOT_NOW = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)


class Worker:
    """Runs jobs of the given kinds until it is stopped.

    `middleware` stands around every handler of single jobs. `stopping` turns true in the middle of the drain: handlers
    then put back what they have not begun. `stuck` is called, in a thread, when the event loop has stood still for too
    long: a process of its own had better end then, for the queue sends ever more jobs to a stream that is open.
    """

    def __init__(
        self,
        queue: Tier,
        config: WorkerConfig,
        middleware: Sequence[Middleware] = (tracing,),
        stuck: Callable[[], None] | None = None,
    ) -> None:
        self._queue = queue
        self._config = config
        self._middleware = middleware
        self._stuck = stuck
        self._kinds: Mapping[str, Kind] = {}
        # By kind; those that share their places share one.
        self._runners: dict[str, Runner] = {}
        self._lines: list[Line] = []
        # Of handlers of many.
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue_standing = Standing("queue")
        self._kind_standing = Standing("kind")
        self._halted = False
        self._stopping = False
        # Handlers that are still at work are cancelled.
        self._given_up = False

    @property
    def in_hand(self) -> int:
        """Jobs leased and not yet acknowledged."""
        return len(self._jobs())

    def stopping(self) -> bool:
        """Whether what has not begun is to be put back."""
        return self._stopping

    async def run(self, kinds: Mapping[str, Kind], stopped: asyncio.Event) -> None:
        """Work until `stopped`, then finish what is in hand within the drain time and hand back the rest."""
        config = self._config
        self._kinds = kinds
        # A kind with a limit has a stream of its own: what waits for its places keeps nobody else from theirs.
        limited = {name: kind.limit for name, kind in kinds.items() if kind.limit is not None}
        shared = [name for name in kinds if name not in limited]
        self._lines = [self._line([name], limit) for name, limit in limited.items()]
        if shared:
            self._lines.append(self._line(shared, config.concurrency))
        heartbeats = Heartbeats(
            self._queue, config.lease_s, config.stuck_s, self._jobs, self._lose, self._cancel, self._beaten, self._stuck
        )
        async with heartbeats.beating():
            leasing = [asyncio.create_task(line.run()) for line in self._lines]
            waiting = asyncio.create_task(stopped.wait())
            try:
                await asyncio.wait([*leasing, waiting], return_when=asyncio.FIRST_COMPLETED)
                await self._drain()
            finally:
                await asyncio.gather(*(_cancelled(task) for task in (*leasing, waiting)))

    def _line(self, kinds: Sequence[str], places: int) -> Line:
        singles = {name: self._single(one, kind) for name in kinds if (one := (kind := self._kinds[name]).one)}
        # And the event loop's time goes round between them.
        self._runners |= dict.fromkeys(singles, Runner(singles, said_of))
        return Line(
            self._queue, self._config, kinds, places, self._kind_standing, self._queue_standing,
            self._take, self._settled, self._lose,
        )  # fmt: skip

    def _single(self, one: One, kind: Kind) -> Single:
        deadlines = None if kind.timeout_s is None else Deadlines(kind.timeout_s)
        return Single(around(keeping(one), self._middleware) if self._middleware else one, deadlines)

    def _jobs(self) -> list[Job]:
        """Every job in hand; asked for by the thread of the heartbeats, too."""
        return [job for line in self._lines for job in line.jobs()]

    def _take(self, jobs: list[Job]) -> None:
        """Begin a lot: jobs of one tenant and kind."""
        if self._halted:
            for job in jobs:
                job.settle(Release("worker_stopping"))
            return
        kind = self._kinds[jobs[0].kind]
        if kind.many is not None:
            task = asyncio.create_task(self._together(kind.many, kind.timeout_s, jobs))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._runners[jobs[0].kind].add(jobs)

    async def _together(self, many: Many, timeout_s: float | None, jobs: Sequence[Job]) -> None:
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                await many(jobs)
            error: NotDone = Retry("defect.unsettled")
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as raised:
            if self._given_up and isinstance(raised, asyncio.CancelledError):
                # By us, and we settle what is left.
                raise
            late = limit.expired() and isinstance(raised, TimeoutError)
            error = Retry("timeout") if late else said_of(raised)
            if error.error.startswith("defect."):
                log.exception("a handler of %s failed", jobs[0].kind)
        for job in jobs:
            job.settle(error)

    def _settled(self, line: Line, job: Job, verdict: Verdict) -> None:
        if verdict is None:
            if not (job.lost or self._kind_standing.troubled):
                line.say_done((job, None))
                return
            self._kind_standing.answered(job.kind)
        else:
            verdict = self._meant(job, verdict)
        # Of a lost one nothing is to be said, but its place is to be freed: under a lost lease this does no more.
        line.say(job, Release("lease_lost") if job.lost else verdict)

    def _meant(self, job: Job, verdict: NotDone) -> NotDone:
        """What the queue is to be told by a handler's verdict. A slip in it is the handler's defect: never raised, for the job
        counts as settled by now, and nothing else would be said of it."""
        try:
            if isinstance(verdict, Away):
                self._kind_standing.failed(job.kind, verdict.error)
                return Snooze(verdict.error, away_for(job.snoozes, verdict.after_s, random.random()))
            if isinstance(verdict, Reject):
                log.error("a job of %s is given up: %s", job.kind, verdict.error, extra={"detail": str(job.id)})
        except Exception as defect:
            log.exception("a verdict on a job of %s means nothing", job.kind)
            return Retry(f"defect.{type(defect).__name__}")
        return verdict

    def _beaten(self, trouble: str) -> None:
        if trouble:
            self._queue_standing.failed("heartbeats", trouble)
        else:
            self._queue_standing.answered("heartbeats")

    def _lose(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.lost or job.settled:
                continue
            job.lost = True
            log.warning("the lease of a job of %s is lost", job.kind, extra={"detail": str(job.id)})
            if self._kinds[job.kind].one is not None:
                self._end(job, Release("lease_lost"))

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """Stop handlers of jobs that are to end. One beyond recall, or of a group, goes on: it is done, or ends at its
        next word."""
        for job in jobs:
            if job.settled or job.committed or self._kinds[job.kind].one is None:
                continue
            log.info("a job of %s is cancelled", job.kind, extra={"detail": str(job.id)})
            self._end(job, Release("cancelled"))

    def _end(self, job: Job, verdict: NotDone) -> None:
        """End a job of a handler of single ones: one that waits is cancelled, and one that was not begun will not be."""
        if job.cancel is not None:
            job.cancel()
        job.settle(verdict)

    async def _drain(self) -> None:
        ends = time.monotonic() + self._config.drain_s
        log.info("stopping with %d jobs in hand", self.in_hand)
        self._halted = True
        for line in self._lines:
            line.halt()
        await self._finished(self._config.drain_s / 2)
        self._stopping = True
        for job in self._jobs():
            if not (job.begun or job.settled or self._kinds[job.kind].one is None):
                self._end(job, Release("worker_stopping"))
        await self._finished(max(0.0, ends - time.monotonic()))
        tasks = self._tasks.union(*(runner.tasks for runner in self._runners.values()))
        for runner in self._runners.values():
            runner.forget()
        self._given_up = True
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)
        for job in self._jobs():
            # One that is committed keeps its lease: nobody is to try it before it is certain that we are gone.
            if not job.committed:
                job.settle(Snooze("worker_stopping", 0) if job.begun else Release("worker_stopping"))
        within_s = min(GRACE_S, 1.0 + self._config.drain_s / 4)
        await asyncio.gather(*(line.drain(within_s) for line in self._lines))

    async def _finished(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                for line in self._lines:
                    await line.quiet.wait()


def away_for(snoozes: int, said_s: float | None, chance: float) -> float:
    """For how long (seconds) a job is put off that was so often put off before, by `chance` in [0, 1): never sooner than the
    tier said, up to SAID_MAX_S, and up to a quarter later (SPREAD_MAX_S at most); where it said nothing, longer each time."""
    if said_s is None:
        longest: float = min(SNOOZE_MIN_S * 2 ** min(snoozes, 10), SNOOZE_MAX_S)
        return longest * (0.5 + chance / 2)
    said_s = min(max(said_s, SAID_MIN_S), SAID_MAX_S)
    return said_s + min(said_s / 4, SPREAD_MAX_S) * chance


def said_of(error: BaseException) -> NotDone:
    """What an exception says of its jobs: what is away burns no attempt, a defect does."""
    if isinstance(error, NotDone):
        # One whose class has not made it one says nothing.
        return error if isinstance(getattr(error, "error", None), str) else Retry(f"defect.{type(error).__name__}")
    if isinstance(error, TierError):
        name = f"{error.tier}.{error.reason or error.code.name}".lower()
        if error.code in NOT_NOW and not error.of_tenant:
            return Away(name, error.retry_after_s)
        # Its tenant is to come back later: no other's jobs wait for that.
        if error.of_tenant or error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            soonest = random.uniform(SNOOZE_MIN_S, SNOOZE_MAX_S)
            return Snooze(name, max(away_for(0, error.retry_after_s, random.random()), soonest))
        return Retry(name)
    return Retry(f"defect.{type(error).__name__}")


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """End a task and take in whatever it ends with; a defect that ended it before is raised."""
    if task.done() and not task.cancelled():
        task.result()
        return
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
