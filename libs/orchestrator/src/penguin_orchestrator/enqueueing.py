"""Streams to the queue for tenants that enqueue much at once: a batch by a stream costs half of what a call costs.

A stream is no more than the quicker way: whoever has no answer by it asks by a call, under the same request_id.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

import grpc

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError

# Tenants that have a stream at once; the others call.
STREAMS_MAX = 16
# So many batches in so short a time (seconds) are worth a stream.
MANY, WINDOW_S = 5, 0.2
# An answer that is not there by then is asked for by a call (seconds).
ANSWER_S = 10.0
# A stream on which nothing is sent for so long is closed, and one this old takes nothing more (seconds). The tier ends it at 300.
IDLE_S = 5.0
AGE_S = 240.0


Call = Callable[[pb.EnqueueBatchRequest], Awaitable[pb.EnqueueBatchResponse]]


class _Stream:
    """One tenant's stream."""

    def __init__(self, queue: Tier, tenant_id: UUID) -> None:
        self._queue = queue
        self._tenant_id = tenant_id
        self._call: grpc.aio.StreamStreamCall[pb.EnqueueBatchRequest, pb.EnqueueStreamResponse] | None = None
        self._writing = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[pb.EnqueueStreamResponse | None]] = {}
        self._since = self._used = time.monotonic()

    @property
    def takes(self) -> bool:
        """Whether it is open, and young enough."""
        return self._call is not None and time.monotonic() - self._since < AGE_S

    async def run(self) -> None:
        """Be open until it is idle, old or broken."""
        method = self._queue.stub(QueueServiceStub).EnqueueStream
        with contextlib.suppress(TierError):
            async with self._queue.conversation(method, timeout=AGE_S + ANSWER_S, tenant_id=self._tenant_id) as call:
                self._call = call
                try:
                    await self._read(call)
                finally:
                    self._call = None
                    for answer in self._waiting.values():
                        if not answer.done():
                            answer.set_result(None)

    async def _read(self, call: grpc.aio.StreamStreamCall[pb.EnqueueBatchRequest, pb.EnqueueStreamResponse]) -> None:
        closing = asyncio.create_task(self._close_in_time(call))
        try:
            while isinstance(reply := await call.read(), pb.EnqueueStreamResponse):
                if (answer := self._waiting.get(reply.request_id)) is not None and not answer.done():
                    answer.set_result(reply)
        finally:
            closing.cancel()

    async def _close_in_time(
        self, call: grpc.aio.StreamStreamCall[pb.EnqueueBatchRequest, pb.EnqueueStreamResponse]
    ) -> None:
        left = IDLE_S
        while self.takes and left > 0:
            await asyncio.sleep(left)
            left = self._used + IDLE_S - time.monotonic()
        self._call = None
        async with self._writing:
            await call.done_writing()

    async def send(self, request: pb.EnqueueBatchRequest) -> pb.EnqueueBatchResponse | None:
        """The answer; None where there is none, or an error, which a call will tell better."""
        call = self._call
        if call is None:
            return None
        self._used = time.monotonic()
        answer = self._waiting[request.request_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                async with self._writing:
                    await call.write(request)
                reply = await answer
        except (TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return None
        finally:
            del self._waiting[request.request_id]
        return reply.stored if reply is not None and reply.HasField("stored") else None


class EnqueueStreams:
    """The streams of one client."""

    def __init__(self, queue: Tier) -> None:
        self._queue = queue
        self._streams: dict[UUID, _Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Batches of each tenant in this window of time.
        self._lately: Counter[UUID] = Counter()
        self._window_ends = 0.0

    async def send(self, tenant_id: UUID, request: pb.EnqueueBatchRequest, call: Call) -> pb.EnqueueBatchResponse:
        """The answer, by the tenant's stream where it has one, or else by a call. A tenant that sends many batches in a short
        time is given a stream. Raises as the call does."""
        stream = self._streams.get(tenant_id)
        if stream is None:
            self._count(tenant_id)
        elif stream.takes and (reply := await stream.send(request)) is not None:
            return reply
        return await call(request)

    def _count(self, tenant_id: UUID) -> None:
        if time.monotonic() >= self._window_ends:
            self._window_ends = time.monotonic() + WINDOW_S
            self._lately.clear()
        self._lately[tenant_id] += 1
        if self._lately[tenant_id] >= MANY and len(self._streams) < STREAMS_MAX:
            self._open(tenant_id)

    def _open(self, tenant_id: UUID) -> None:
        stream = self._streams[tenant_id] = _Stream(self._queue, tenant_id)
        task = asyncio.create_task(stream.run())
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            del self._streams[tenant_id]

        task.add_done_callback(ended)

    async def close(self) -> None:
        """Close all streams; nothing is under way any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
