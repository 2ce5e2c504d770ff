"""Turns concurrent single sends of one tenant into batches, as a database groups commits.

Nobody waits for a clock: a send that finds no batch on its way leaves at once, with whatever came in the same turn of the
loop; those that come while enough batches are on their way gather for the next. Each caller gets its own answer or error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from penguin_orchestrator.messages import OutcomeUnknownError, OutgoingEmail, Refusal, SendError, SendResult, Sent

SendBatch = Callable[[UUID, Sequence[OutgoingEmail]], Awaitable[list[SendResult]]]
# The code of google.rpc.Code.RESOURCE_EXHAUSTED.
_EXHAUSTED = 8


_Waiting = tuple[OutgoingEmail, asyncio.Future[SendResult]]


@dataclass
class _Line:
    """One tenant's sends that wait for a batch, and how many batches of it are on their way."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    on_the_way: int = 0
    scheduled: bool = False


class Coalescer:
    """Groups single sends. Bounded: past `limit` waiting emails of one tenant a send is refused at once."""

    def __init__(self, send: SendBatch, *, batch: int = 100, parallel: int = 2, limit: int = 10_000) -> None:
        self._send = send
        self._batch = batch
        self._parallel = parallel
        self._limit = limit
        self._lines: dict[UUID, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, tenant_id: UUID, email: OutgoingEmail) -> Sent:
        """Send one email; raises SendError, TierError or OutcomeUnknownError as its batch fared."""
        line = self._lines.setdefault(tenant_id, _Line())
        if len(line.waiting) >= self._limit:
            raise SendError(Refusal(_EXHAUSTED, "BACKLOG_FULL", f"{self._limit} emails wait here already."))
        answer: asyncio.Future[SendResult] = asyncio.get_running_loop().create_future()
        line.waiting.append((email, answer))
        self._schedule(tenant_id, line)
        result = await answer
        if isinstance(result, Refusal):
            raise SendError(result)
        return result

    def _schedule(self, tenant_id: UUID, line: _Line) -> None:
        if line.scheduled or not line.waiting or line.on_the_way >= self._parallel:
            return
        line.scheduled = True
        # At the end of this turn of the loop, so that whoever calls in the same turn comes along.
        asyncio.get_running_loop().call_soon(self._depart, tenant_id, line)

    def _depart(self, tenant_id: UUID, line: _Line) -> None:
        line.scheduled = False
        batch = [line.waiting.popleft() for _ in range(min(self._batch, len(line.waiting)))]
        batch = [(email, answer) for email, answer in batch if not answer.done()]
        if batch:
            line.on_the_way += 1
            task = asyncio.create_task(self._carry(tenant_id, line, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._schedule(tenant_id, line)
        self._drop_if_idle(tenant_id, line)

    def _drop_if_idle(self, tenant_id: UUID, line: _Line) -> None:
        if not line.waiting and not line.on_the_way and self._lines.get(tenant_id) is line:
            del self._lines[tenant_id]

    async def _carry(self, tenant_id: UUID, line: _Line, batch: list[_Waiting]) -> None:
        try:
            results = await self._send(tenant_id, [email for email, _ in batch])
            for (_, answer), result in zip(batch, results, strict=True):
                if not answer.done():
                    answer.set_result(result)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is every waiting caller's answer
            _fail(batch, error)
        except BaseException:
            for _, answer in batch:
                answer.cancel()
            raise
        finally:
            line.on_the_way -= 1
            self._schedule(tenant_id, line)
            self._drop_if_idle(tenant_id, line)

    async def close(self) -> None:
        """Wait for all that came until now: the batches on their way, and what waits to leave with the next."""
        while self._lines or self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    errors: Sequence[Exception] = [error] * len(batch)
    if isinstance(error, OutcomeUnknownError) and len(error.request_ids) == len(batch):
        # To each its own id, to ask again with.
        errors = [OutcomeUnknownError((request_id,), error.cause) for request_id in error.request_ids]
    for (_, answer), each in zip(batch, errors, strict=True):
        if not answer.done():
            answer.set_exception(each)
