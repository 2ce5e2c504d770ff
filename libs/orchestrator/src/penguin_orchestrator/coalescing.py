"""Turns concurrent single acts of one tenant into batches, as a database groups commits.

Nobody waits for a clock: an act that finds no batch on its way leaves at once, with whatever came in the same turn of the
loop; those that come while enough batches are on their way gather for the next. Each caller gets its own answer or error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

from penguin_orchestrator.messages import OutcomeUnknownError, OutgoingEmail, Refusal, SendError, SendResult, Sent

# The code of google.rpc.Code.RESOURCE_EXHAUSTED.
_EXHAUSTED = 8
# What is kept in memory for all tenants (bytes).
HELD_MAX = 64 * 1024 * 1024
# What an item costs beside what its size says: its future, its caller's frame (bytes).
ITEM_BYTES = 512
OF_TENANT, OF_ALL = "items of the tenant", "bytes of all tenants"


class BacklogFullError(Exception):
    """Too much waits here already; nothing was done. `bound` says of what: items of the tenant, or bytes of all tenants."""

    def __init__(self, limit: int, bound: str) -> None:
        super().__init__(f"{limit} {bound} are here already.")
        self.bound = bound


X = TypeVar("X")
R = TypeVar("R")


@dataclass
class _Line(Generic[X, R]):
    """One tenant's items that wait for a batch, and how many batches of it are on their way."""

    waiting: deque[tuple[X, asyncio.Future[R]]] = field(default_factory=deque)
    # What those that wait come to (bytes).
    size: int = 0
    on_the_way: int = 0
    scheduled: bool = False


class Coalescer(Generic[X, R]):
    """Groups single acts. Bounded: past `limit` waiting items of one tenant, or `limit_bytes` of all that wait and are on their
    way, another is refused at once. One larger than that goes alone."""

    def __init__(
        self,
        send: Callable[[UUID, Sequence[X]], Awaitable[Sequence[R]]],
        *,
        batch: int = 100,
        parallel: int = 2,
        limit: int = 10_000,
        limit_bytes: int = HELD_MAX,
        size: Callable[[X], int] = lambda item: 0,
    ) -> None:
        self._send = send
        self._size = size
        self._limit_bytes = limit_bytes
        self._held = 0
        self._batch = batch
        self._parallel = parallel
        self._limit = limit
        self._lines: dict[UUID, _Line[X, R]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, tenant_id: UUID, item: X) -> R:
        """The item's own answer; raises BacklogFullError, or as its batch fared."""
        line = self._lines.setdefault(tenant_id, _Line())
        if len(line.waiting) >= self._limit:
            raise BacklogFullError(self._limit, OF_TENANT)
        size = self._size(item) + ITEM_BYTES
        if self._held + size > self._limit_bytes and self._held:
            self._drop_if_idle(tenant_id, line)
            raise BacklogFullError(self._limit_bytes, OF_ALL)
        self._held += size
        line.size += size
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        line.waiting.append((item, answer))
        self._schedule(tenant_id, line)
        return await answer

    def blame(self, count: int, error: Exception) -> Sequence[Exception]:
        """What each of a batch's callers is told when the batch as a whole failed."""
        return [error] * count

    def _schedule(self, tenant_id: UUID, line: _Line[X, R]) -> None:
        if line.scheduled or not line.waiting or line.on_the_way >= self._parallel:
            return
        line.scheduled = True
        # At the end of this turn of the loop, so that whoever calls in the same turn comes along.
        asyncio.get_running_loop().call_soon(self._depart, tenant_id, line)

    def _depart(self, tenant_id: UUID, line: _Line[X, R]) -> None:
        line.scheduled = False
        batch = [line.waiting.popleft() for _ in range(min(self._batch, len(line.waiting)))]
        # Mostly all of it: nothing is to be measured again.
        size = line.size if not line.waiting else sum(self._size(item) + ITEM_BYTES for item, _ in batch)
        line.size -= size
        batch = [(item, answer) for item, answer in batch if not answer.done()]
        if batch:
            line.on_the_way += 1
            task = asyncio.create_task(self._carry(tenant_id, line, batch, size))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._held -= size
        self._schedule(tenant_id, line)
        self._drop_if_idle(tenant_id, line)

    def _drop_if_idle(self, tenant_id: UUID, line: _Line[X, R]) -> None:
        if not line.waiting and not line.on_the_way and self._lines.get(tenant_id) is line:
            del self._lines[tenant_id]

    async def _carry(
        self, tenant_id: UUID, line: _Line[X, R], batch: list[tuple[X, asyncio.Future[R]]], size: int
    ) -> None:
        try:
            results = await self._send(tenant_id, [item for item, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is every waiting caller's answer
            for (_, answer), each in zip(batch, self.blame(len(batch), error), strict=True):
                if not answer.done():
                    answer.set_exception(each)
        except BaseException:
            for _, answer in batch:
                answer.cancel()
            raise
        finally:
            line.on_the_way -= 1
            self._held -= size
            self._schedule(tenant_id, line)
            self._drop_if_idle(tenant_id, line)

    async def close(self) -> None:
        """Wait for all that came until now: the batches on their way, and what waits to leave with the next."""
        while self._lines or self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)


class SendCoalescer(Coalescer[OutgoingEmail, SendResult]):
    """Groups single sends of emails. Attachments are not counted: many emails share one, and whoever sends holds it anyway."""

    def __init__(
        self, send: Callable[[UUID, Sequence[OutgoingEmail]], Awaitable[Sequence[SendResult]]], **bounds: int
    ) -> None:
        super().__init__(send, size=lambda email: len(email.text) + len(email.html), **bounds)

    async def send(self, tenant_id: UUID, email: OutgoingEmail) -> Sent:
        """Send one email; raises SendError, TierError or OutcomeUnknownError as its batch fared."""
        try:
            result = await self.put(tenant_id, email)
        except BacklogFullError as error:
            raise SendError(Refusal(_EXHAUSTED, "BACKLOG_FULL", str(error))) from None
        if isinstance(result, Refusal):
            raise SendError(result)
        return result

    def blame(self, count: int, error: Exception) -> Sequence[Exception]:
        """To each its own id, to ask again with."""
        if isinstance(error, OutcomeUnknownError) and len(error.request_ids) == count:
            return [OutcomeUnknownError((request_id,), error.cause) for request_id in error.request_ids]
        return super().blame(count, error)
