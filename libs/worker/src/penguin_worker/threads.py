"""Runs handlers that block in threads of their own, so that nothing else waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable

from penguin_worker.jobs import Away, Job, Outcome
from penguin_worker.kinds import One

THREADS = 16


class ThreadEnded(Exception):
    """A function left its thread by no ordinary exception; the text is the class of what it raised."""


def in_thread(function: Callable[[Job], Outcome], threads: int = THREADS) -> One:
    """A handler from a synchronous function, in at most so many threads at once; it may raise NotDone.

    A thread cannot be cancelled: after a time-out, a lost lease or a stop it runs to its end unheard, and keeps its place
    among the threads. A long function looks at `job.held` now and then, and ends where it is false.
    """
    places = asyncio.Semaphore(threads)

    async def one(job: Job) -> Outcome:
        loop = asyncio.get_running_loop()
        await places.acquire()
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


def _start(run: Callable[[], None], name: str) -> None:
    """A thread of its own; raises Away where the process can have no more of them just now: no job is to blame for that."""
    try:
        # No thread of a pool: the process ends without waiting for one that never does.
        threading.Thread(target=run, name=name, daemon=True).start()
    except (RuntimeError, MemoryError) as error:
        raise Away("threads.exhausted") from error
