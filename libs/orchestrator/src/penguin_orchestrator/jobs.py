"""Producers' side of the queue: many jobs of a kind as columns, single ones grouped with those that come beside them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.outbox import traceparent
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.coalescing import Coalescer
from penguin_orchestrator.enqueueing import EnqueueStreams

DEADLINE_S = 30.0
PER_CALL = 1000


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


class Jobs:
    """Enqueues jobs of any tenant. A job is durable when its number is returned."""

    def __init__(self, queue: Tier) -> None:
        self._queue = queue
        self._streams = EnqueueStreams(queue)
        self._singles: Coalescer[_Single, int] = Coalescer(self._together, batch=PER_CALL, parallel=2)

    async def enqueue(self, tenant_id: UUID, terms: Terms, payload: Mapping[str, Any]) -> int:
        """Enqueue one job, together with those enqueued beside it; its number.

        Nobody waits for a clock: a call that finds fewer than two batches under way leaves at once. Raises TierError as
        enqueue_many does, and BacklogFullError while too many of the tenant wait here.
        """
        return await self._singles.put(tenant_id, _Single(terms, orjson.dumps(payload), traceparent()))

    async def enqueue_many(
        self, tenant_id: UUID, terms: Terms, payloads: Sequence[Mapping[str, Any]], *, request_id: UUID | None = None
    ) -> range:
        """Enqueue up to 5000 jobs, all or none; their numbers, in the order of the payloads.

        Raises TierError. Where its outcome is unknown, the same call with the same `request_id` tells.
        """
        return await self._send(
            tenant_id, terms, list(map(orjson.dumps, payloads)), [traceparent()], request_id or keys.new_id()
        )

    async def close(self) -> None:
        """Wait for what is on its way."""
        await self._singles.close()
        await self._streams.close()

    async def _together(self, tenant_id: UUID, singles: Sequence[_Single]) -> list[int]:
        """A call for each run of singles on the same terms: mostly one."""
        numbers: list[int] = []
        for terms, group in itertools.groupby(singles, key=lambda single: single.terms):
            alike = list(group)
            payloads, traces = [each.payload for each in alike], [each.traceparent for each in alike]
            numbers += await self._send(tenant_id, terms, payloads, traces, keys.new_id(), streams=True)
        return numbers

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
