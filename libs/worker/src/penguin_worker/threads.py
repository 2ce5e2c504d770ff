"""Runs handlers that block in threads of their own, so that nothing else waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable

from penguin_worker.jobs import Away, Job, Outcome, Release
from penguin_worker.kinds import One

THREADS = 16
# How long a job waits for a thread before others may have it (seconds): where all threads are at functions that never end, it would
# be kept for nothing.
WAIT_S = 60.0


class ThreadEnded(Exception):
    """A function left its thread by no ordinary exception; the text is the class of what it raised."""


def in_thread(function: Callable[[Job], Outcome], threads: int = THREADS) -> One:
    """A handler from a synchronous function, in at most so many threads at once; it may raise NotDone.

    A job that waits for a thread is not begun: its time-out runs from when it has one, a stop gives it back untouched, and so does
    waiting for WAIT_S. `Kind(in_thread(…, n), limit=n)` leases no more than can be worked on.

    A thread cannot be cancelled: after a time-out, a lost lease or a stop it runs to its end unheard, and keeps its place
    among the threads. A long function looks at `job.held` now and then, and ends where it is false.
    """
    places = asyncio.Semaphore(threads)

    async def one(job: Job) -> Outcome:
        loop = asyncio.get_running_loop()
        await _place(places, job)
        ended: asyncio.Future[Outcome] = loop.create_future()
        context = contextvars.copy_context()

        def end(error: Exception | None, outcome: Outcome) -> None:
            places.release()
            if ended.cancelled():
                return
            if isinstance(error, StopIteration):
                # No future takes it.
                error = ThreadEnded("StopIteration")
            if error is None:
                ended.set_result(outcome)
            else:
                ended.set_exception(error)

        def run() -> None:
            error: Exception | None = None
            outcome: Outcome = None
            try:
                outcome = context.run(function, job)
            except Exception as raised:  # noqa: BLE001 - raised where it is waited for
                error = raised
            except BaseException as raised:  # noqa: BLE001 - an exit ends its job and not the worker
                error = ThreadEnded(type(raised).__name__)
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(end, error, outcome)

        try:
            _start(run, f"job {job.kind}")
        except BaseException:
            places.release()
            raise
        return await ended

    return one


async def _place(places: asyncio.Semaphore, job: Job) -> None:
    """Take one of the threads' places, or wait for one; raises Release where none comes free in time."""
    if not places.locked():
        await places.acquire()
        return
    try:
        with job.unbegun():
            async with asyncio.timeout(WAIT_S):
                await places.acquire()
    except TimeoutError:
        raise Release("threads.busy") from None


def _start(run: Callable[[], None], name: str) -> None:
    """A thread of its own; raises Away where the process can have no more of them just now: no job is to blame for that."""
    try:
        # No thread of a pool: the process ends without waiting for one that never does.
        threading.Thread(target=run, name=name, daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        raise Away("threads.exhausted") from error
