"""Small leases, grouped: those who ask while enough leases are under way are served together by the next one, each with its own
jobs under its own token. PostgreSQL sees one statement for them all."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from penguin_queue.domain.jobs import Job
from penguin_queue.store.leases import Asked

# Leases of the same kinds under way at once; who comes meanwhile waits for the next.
PARALLEL = 2
# Jobs that one lease is for.
TOGETHER_MAX = 1000

Lease = Callable[[Sequence[Asked]], Awaitable[list[list[Job]]]]
Call = tuple[Asked, asyncio.Future[list[Job]]]


@dataclass
class _Line:
    waiting: deque[Call] = field(default_factory=deque)
    serving: int = 0


class Desk:
    """Where leases are asked for."""

    def __init__(self, lease: Lease, give_back: Callable[[Sequence[Job]], None]) -> None:
        self._lease = lease
        self._give_back = give_back
        self._lines: dict[tuple[str, ...], _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, asked: Asked) -> list[Job]:
        """The caller's own jobs. Raises as the lease did. Whoever is cancelled meanwhile never learns what was leased to him: it
        is given back."""
        answer: asyncio.Future[list[Job]] = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(asked.kinds, _Line())
        line.waiting.append((asked, answer))
        if line.serving < PARALLEL:
            line.serving += 1
            self._begin(self._serve(asked.kinds, line))
        try:
            return await answer
        except asyncio.CancelledError:
            # It may have come in this very turn.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._give_back(answer.result())
            raise

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        # Not the caller's context: what is done for many, or after he has gone, is not bound by his deadline.
        task = asyncio.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, kinds: tuple[str, ...], line: _Line) -> None:
        try:
            while calls := _next(line.waiting):
                await self._serve_together(calls)
        finally:
            line.serving -= 1
            if not line.serving and not line.waiting and self._lines.get(kinds) is line:
                del self._lines[kinds]

    async def _serve_together(self, calls: Sequence[Call]) -> None:
        try:
            given = await self._lease([asked for asked, _ in calls])
        except Exception as error:  # noqa: BLE001 - whatever it was, it is every waiting caller's answer
            for _, answer in calls:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), jobs in zip(calls, given, strict=True):
            if not answer.done():
                answer.set_result(jobs)
            elif jobs:
                self._give_back(jobs)


def _next(waiting: deque[Call]) -> list[Call]:
    """Those who are served together next, and are still there."""
    calls: list[Call] = []
    wanted = 0
    while waiting and (not calls or wanted + waiting[0][0].max_jobs <= TOGETHER_MAX):
        call = waiting.popleft()
        if not call[1].done():
            calls.append(call)
            wanted += call[0].max_jobs
    return calls
