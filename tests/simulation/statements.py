"""Who is next at the databases: one statement at a time runs, and which of those that wait comes next is drawn by the seed. So
transactions are interleaved at every statement, and the same way whenever the seed is the same.

A statement that waits for another transaction's lock stands aside until the lock is given.
"""

from __future__ import annotations

import asyncio
import random
from contextvars import ContextVar
from typing import Any

import asyncpg
from tests.simulation.clock import VirtualLoop

BLOCKED = "SELECT cardinality(pg_blocking_pids($1)) > 0"


# Which of the calls under way this is, in the order in which they were made.
call_number: ContextVar[int] = ContextVar("call_number", default=0)


class Turns:
    """The order of statements."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.chance = random.Random(0)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        # Who runs now, and who was found to wait for a lock: backends by their process ids.
        self._running: int | None = None
        self._blocked: set[int] = set()
        self._watch: asyncpg.Connection[Any] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[None] | None = None
        self.count = 0
        loop.on_stall, loop.on_idle = self._stalled, self._next

    async def open(self, dsn: str, **how: Any) -> None:
        """Connect who looks for locks."""
        self._watch = await asyncpg.connect(dsn, **how)

    def close(self) -> None:
        """Look no more."""
        self._loop.on_stall = self._loop.on_idle = None
        if self._watch is not None:
            self._watch.terminate()

    async def take(self, pid: int) -> None:
        """Wait for one's turn."""
        self.count += 1
        turn = self._loop.create_future()
        place = (call_number.get(), self.count, turn)
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            else:
                self._running = None
            raise
        self._running = pid

    def give(self, pid: int) -> None:
        """The statement has ended."""
        if pid in self._blocked:
            self._blocked.discard(pid)
            return
        self._running = None
        if self._blocked and self._freeing is None:
            # It may have freed them: they go before anybody new does.
            self._freeing = self._loop.create_task(self._await_freed())

    def _next(self) -> bool:
        """Once nobody has anything else to do: whose turn it is. Whoever could come has come, however long it took."""
        if self._running is not None or self._freeing is not None or not self._waiting:
            return False
        self._waiting.sort(key=lambda place: place[:2])
        turn = self._waiting.pop(self.chance.randrange(len(self._waiting)))[2]
        # Until it has woken up nobody else may go.
        self._running = -1
        turn.set_result(None)
        return True

    def _stalled(self) -> None:
        if self._looking is None and self._running not in (None, -1) and self._waiting:
            self._looking = self._loop.create_task(self._look(self._running))

    async def _look(self, pid: int | None) -> None:
        try:
            if pid is not None and await self._is_blocked(pid) and self._running == pid:
                self._blocked.add(pid)
                self._running = None
        finally:
            self._looking = None

    async def _await_freed(self) -> None:
        try:
            if self._looking is not None:
                await asyncio.wait([self._looking])
            for pid in sorted(self._blocked):
                # One that waits no longer is about to end: by and by it takes itself off the list.
                while pid in self._blocked and not await self._is_blocked(pid):  # noqa: ASYNC110 - real, not ours
                    await asyncio.sleep(0)
        finally:
            self._freeing = None

    async def _is_blocked(self, pid: int) -> bool:
        assert self._watch is not None
        return bool(await self._watch.fetchval(BLOCKED, pid))


_turns: Turns | None = None


def go_by(turns: Turns | None) -> None:
    """Let every statement of `TurnedConnection`s wait for its turn; None: for nothing."""
    global _turns
    _turns = turns


async def _in_turn(connection: asyncpg.Connection[Any], act: Any) -> Any:
    turns = _turns
    if turns is None:
        return await act
    pid = connection.get_server_pid()
    try:
        await turns.take(pid)
    except BaseException:
        act.close()
        raise
    try:
        return await act
    finally:
        turns.give(pid)


class TurnedConnection(asyncpg.Connection):
    """A connection whose statements wait for their turn."""

    async def execute(self, query: str, *args: Any, **more: Any) -> str:
        return await _in_turn(self, super().execute(query, *args, **more))  # type: ignore[no-any-return]

    async def executemany(self, command: str, args: Any, **more: Any) -> None:
        await _in_turn(self, super().executemany(command, args, **more))

    async def fetch(self, query: str, *args: Any, **more: Any) -> list[Any]:
        return await _in_turn(self, super().fetch(query, *args, **more))  # type: ignore[no-any-return]

    async def fetchval(self, query: str, *args: Any, **more: Any) -> Any:
        return await _in_turn(self, super().fetchval(query, *args, **more))

    async def fetchrow(self, query: str, *args: Any, **more: Any) -> Any:
        return await _in_turn(self, super().fetchrow(query, *args, **more))
