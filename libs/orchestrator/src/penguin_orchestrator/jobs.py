"""Producers' side of the queue: many jobs of a kind as columns, single ones grouped with those that come beside them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import grpc

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.jsonbytes import json_bytes
from penguin_chassis.outbox import traceparent
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.coalescing import Coalescer
from penguin_orchestrator.enqueueing import EnqueueStreams
from penguin_orchestrator.errors import TierError

DEADLINE_S = 30.0
PER_CALL = 1000
# Payloads that go together (bytes): a message has 4 MiB.
TOGETHER_MAX = 2 * 1024 * 1024


@dataclass(frozen=True)
class Terms:
    """How jobs are run: `priority` is high, normal or low, `rank` orders within it (lower first); no `run_at` means now."""

    kind: str
    priority: str = "normal"
    rank: int = 0
    run_at: datetime | None = None
    max_attempts: int = 0


@dataclass(frozen=True)
class _Single:
    terms: Terms
    payload: bytes
    traceparent: str


def _parted(singles: Iterable[_Single]) -> Iterator[list[_Single]]:
    """In parts that fit into a message each."""
    part: list[_Single] = []
    size = 0
    for single in singles:
        if part and size + len(single.payload) > TOGETHER_MAX:
            yield part
            part, size = [], 0
        part.append(single)
        size += len(single.payload)
    if part:
        yield part


class Jobs:
    """Enqueues jobs of any tenant. A job is durable when its number is returned."""

    def __init__(self, queue: Tier) -> None:
        self._queue = queue
        self._streams = EnqueueStreams(queue)
        self._singles: Coalescer[_Single, int | TierError] = Coalescer(self._together, batch=PER_CALL, parallel=2)

    async def enqueue(self, tenant_id: UUID, terms: Terms, payload: Mapping[str, Any]) -> int:
        """Enqueue one job, together with those enqueued beside it; its number.

        Nobody waits for a clock: a call that finds fewer than two batches under way leaves at once. Raises TierError as
        enqueue_many does, and BacklogFullError while too many of the tenant wait here.
        """
        answer = await self._singles.put(tenant_id, _Single(terms, json_bytes(payload), traceparent()))
        if isinstance(answer, TierError):
            raise answer
        return answer

    async def enqueue_many(
        self, tenant_id: UUID, terms: Terms, payloads: Sequence[Mapping[str, Any]], *, request_id: UUID | None = None
    ) -> range:
        """Enqueue up to 5000 jobs, all or none; their numbers, in the order of the payloads.

        Raises TierError. Where its outcome is unknown, the same call with the same `request_id` tells.
        """
        return await self._send(
            tenant_id, terms, list(map(json_bytes, payloads)), [traceparent()], request_id or keys.new_id()
        )

    async def close(self) -> None:
        """Wait for what is on its way."""
        await self._singles.close()
        await self._streams.close()

    async def _together(self, tenant_id: UUID, singles: Sequence[_Single]) -> list[int | TierError]:
        """A call for each run of singles on the same terms, mostly one; to each single its own number or error."""
        answers: list[int | TierError] = []
        for _, group in itertools.groupby(singles, key=lambda single: single.terms):
            for alike in _parted(group):
                answers += await self._alike(tenant_id, alike)
        return answers

    async def _alike(self, tenant_id: UUID, singles: Sequence[_Single]) -> list[int | TierError]:
        payloads, traces = [each.payload for each in singles], [each.traceparent for each in singles]
        try:
            return list(await self._send(tenant_id, singles[0].terms, payloads, traces, keys.new_id(), streams=True))
        except TierError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT or len(singles) == 1:
                return [error] * len(singles)
        # Nothing was stored, for one of them is wrong. The others are not to suffer for it.
        return [answer for each in singles for answer in await self._alike(tenant_id, [each])]

    async def _send(
        self,
        tenant_id: UUID,
        terms: Terms,
        payloads: Sequence[bytes],
        traceparents: Sequence[str],
        request_id: UUID,
        *,
        streams: bool = False,
    ) -> range:
        request = pb.EnqueueBatchRequest(
            tenant_id=str(tenant_id),
            request_id=str(request_id),
            kind=terms.kind,
            payloads=payloads,
            priority=pb.JobPriority.Value(f"JOB_PRIORITY_{terms.priority.upper()}"),
            rank=terms.rank,
            max_attempts=terms.max_attempts,
            traceparents=traceparents if any(traceparents) else (),
        )
        if terms.run_at is not None:
            request.run_at.FromDatetime(terms.run_at)
        if streams:
            reply = await self._streams.send(tenant_id, request, self._call)
        else:
            reply = await self._call(request)
        return range(reply.first_job_id, reply.first_job_id + reply.count)

    async def _call(self, request: pb.EnqueueBatchRequest) -> pb.EnqueueBatchResponse:
        method = self._queue.stub(QueueServiceStub).EnqueueBatch
        reply: pb.EnqueueBatchResponse = await self._queue.insist(method, request, deadline_s=DEADLINE_S)
        return reply
