"""Runs handlers of single jobs. Those that end without waiting share a task; one that waits has its task to itself.

A task costs more than the rest of what is done for a job. So a task takes jobs one after another, each in a context as clean
as the first one's, for as long as their handlers end in their first step. With the first wait of a handler its task becomes
its own: what it told asyncio of its task holds, a time-out or a cancellation means it alone, and others go on with the rest.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from penguin_worker.deadlines import Deadlines
from penguin_worker.jobs import Job, NotDone, Retry, result_of
from penguin_worker.kinds import One

log = logging.getLogger(__name__)

# For how long jobs that do not wait may keep everything else from the event loop (seconds), and after how many of them
# that is looked at.
SLICE_S = 0.01
LOOK = 4
# How many tasks go on where a handler waits: with two, as many are at work after a few rounds of the loop as have to wait.
HEIRS = 2


@dataclass(frozen=True)
class Single:
    """How jobs of a kind are run one by one; `deadlines` where they have a time-out."""

    one: One
    deadlines: Deadlines | None = None


class _Turn:
    """A task's turn, and the job that it is at."""

    __slots__ = ("began", "context", "expired", "job", "own", "task")

    job: Job

    def __init__(self, context: contextvars.Context, task: asyncio.Task[None]) -> None:
        self.context = context
        self.task = task
        # Of jobs with a time-out: when this one was begun (monotonic seconds).
        self.began = 0.0
        # The handler has waited: the task is its own.
        self.own = False
        self.expired = False

    def spoilt(self, clean: contextvars.Context) -> bool:
        """Whether the last handler left something in its context, or asked something of its task, that is not for the
        next one."""
        try:
            return self.context != clean or self.task.cancelling() > 0
        except Exception:  # noqa: BLE001 - values that cannot be compared are not the same
            return True

    def limit(self, deadlines: Deadlines) -> None:
        """Let its job's time run from when it was begun, and anew from when it is begun after all where it waits for that."""
        job = self.job
        if job.begun:
            deadlines.add(self, self.began)
        job.on_begun = partial(self._begun, deadlines)

    def _begun(self, deadlines: Deadlines, begun: bool) -> None:
        if begun:
            deadlines.add(self, time.monotonic())
        else:
            deadlines.discard(self)

    def expire(self) -> None:
        """Its job's time is up."""
        self.expired = True
        self.task.cancel()


class Runner:
    """Runs jobs in the order in which they come, and settles them. `said_of` says what an exception means for a job."""

    def __init__(self, kinds: Mapping[str, Single], said_of: Callable[[Exception], NotDone]) -> None:
        self._kinds = kinds
        self._said_of = said_of
        self._todo: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        # Those that have not begun: where jobs are left, there is one at least.
        self._fresh: set[asyncio.Task[None]] = set()
        self._clean = contextvars.copy_context()
        self._forgotten = False

    @property
    def tasks(self) -> frozenset[asyncio.Task[None]]:
        """Tasks that have not ended."""
        return frozenset(self._tasks)

    def add(self, jobs: Sequence[Job]) -> None:
        """Run them; nothing of them is run before this returns."""
        self._todo.extend(jobs)
        self._go_on()

    def forget(self) -> None:
        """Begin none of those that have not been begun, and leave those that are cancelled from now on to whoever cancels them."""
        self._forgotten = True
        self._todo.clear()

    def _pass_on(self, heirs: int) -> None:
        for _ in range(min(heirs, len(self._todo) - len(self._fresh))):
            context = self._clean.copy()
            # Not by the loop's factory of tasks: an eager one would begin it here.
            task = asyncio.Task(self._turn(context), loop=asyncio.get_running_loop(), context=context)
            self._fresh.add(task)
            self._tasks.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._fresh.discard(task)
        self._tasks.discard(task)

    async def _turn(self, context: contextvars.Context) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is one of ours
        self._fresh.discard(task)
        turn = _Turn(context, task)
        try:
            await _watched(self._work(turn), partial(self._waits, turn))
        except Exception as defect:
            # Not the handler's, which is settled where it is raised. Those behind it have nothing to do with it.
            log.exception("a task that runs handlers failed")
            self._go_on()
            turn.job.settle(Retry(f"defect.{type(defect).__name__}"))

    def _waits(self, turn: _Turn) -> None:
        """The handler that a task is at waits for the first time."""
        turn.own = True
        turn.job.cancel = turn.task.cancel
        if (deadlines := self._kinds[turn.job.kind].deadlines) is not None:
            turn.limit(deadlines)
        self._pass_on(HEIRS)

    async def _work(self, turn: _Turn) -> None:
        """Run jobs until one of them waits, or there is reason to let others go on."""
        todo, kinds, clean = self._todo, self._kinds, self._clean
        ends, count = time.monotonic() + SLICE_S, 0
        while todo:
            turn.job = job = todo.popleft()
            # Lost or cancelled before it was begun.
            if job.settled:
                continue
            kind = kinds[job.kind]
            if kind.deadlines is not None:
                turn.began = time.monotonic()
            job.begun = True
            try:
                outcome = await kind.one(job)
                if outcome is not None:
                    job.result = result_of(outcome)
                job.settle()
            except BaseException as raised:  # noqa: BLE001 - a job is to be settled, whatever it is; what ends us is raised
                self._failed(turn, raised)
            if turn.own:
                job.cancel = job.on_begun = None
                if kind.deadlines is not None:
                    kind.deadlines.discard(turn)
                return
            count += 1
            if turn.spoilt(clean) or (count % LOOK == 0 and time.monotonic() > ends):
                break
        self._go_on()

    def _go_on(self) -> None:
        """Where jobs are left, there is to be somebody who begins them."""
        if not self._fresh:
            self._pass_on(1)

    def _failed(self, turn: _Turn, raised: BaseException) -> None:
        """Settle the job that a task is at, whose handler raised this; raises what is to end the process."""
        job = turn.job
        if isinstance(raised, asyncio.CancelledError):
            asked = turn.task.cancelling()
            if turn.expired and asked == 1:
                job.settle(Retry("timeout"))
                return
            if asked and (job.settled or self._forgotten):
                # Whoever cancelled the task has settled its job, or will.
                return
        elif isinstance(raised, Exception):
            if turn.expired and isinstance(raised, TimeoutError):
                job.settle(Retry("timeout"))
                return
            said = self._said_of(raised)
            if not said.error.startswith("defect."):
                job.settle(said)
                return
        elif isinstance(raised, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise raised
        log.error("a handler of %s failed", job.kind, exc_info=raised)
        job.settle(Retry(f"defect.{type(raised).__name__}"))


@types.coroutine
def _watched(coroutine: Coroutine[Any, Any, None], waits: Callable[[], None]) -> Generator[Any, Any, None]:
    """Await it; `waits` is called when it waits for the first time."""
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return
    waits()
    while True:
        try:
            yield awaited
        except BaseException as raised:  # noqa: BLE001 - it is the coroutine's, as with any await
            try:
                awaited = coroutine.throw(raised)
            except StopIteration:
                return
        else:
            break
    yield from coroutine
