"""QueueAdminService on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_admin_service_pb2_grpc, queue_service_pb2
from penguin_chassis.mutations import step_of
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.wire import stamp
from penguin_queue.domain.queues import (
    COMPLETED_RETENTION,
    DEAD_RETENTION,
    RATES,
    Limit,
    Pause,
    Queue,
    RateName,
    Terms,
    backoff_of,
    limit_of,
)
from penguin_queue.operations.census import Census
from penguin_queue.operations.pausing import leases_are_over
from penguin_queue.store.census import WINDOW, Depth, Flow
from penguin_queue.store.queues import QueueStore

MAX_ATTEMPTS = 10
LOST_LEASE_LIMIT = 5


class QueueAdminServicer(queue_admin_service_pb2_grpc.QueueAdminServiceServicer):
    """Queues for those who run the platform."""

    def __init__(self, queues: QueueStore, census: Census, changed: Callable[[], Awaitable[None]]) -> None:
        self._queues = queues
        self._census = census
        # Called when leases may go by something else than before.
        self._changed = changed

    async def PutQueue(self, request: pb.PutQueueRequest, context: Any) -> pb.PutQueueResponse:
        queue = await self._queues.put(step_of(request), _terms(request.queue))
        await self._changed()
        return pb.PutQueueResponse(queue=_queue(queue))

    async def GetQueue(self, request: pb.GetQueueRequest, context: Any) -> pb.GetQueueResponse:
        return pb.GetQueueResponse(queue=_queue(await self._queues.get(request.name)))

    async def ListQueues(self, request: pb.ListQueuesRequest, context: Any) -> pb.ListQueuesResponse:
        size = page_size(request.page_size)
        found = await self._queues.list_page(page_start(request, name_of, ""), size + 1)
        token = next_token(request, [found[size - 1].terms.name]) if len(found) > size else ""
        return pb.ListQueuesResponse(queues=map(_queue, found[:size]), next_page_token=token)

    async def MoveKinds(self, request: pb.MoveKindsRequest, context: Any) -> pb.MoveKindsResponse:
        moved = await self._queues.move_kinds(step_of(request), request.queue, sorted(request.kinds))
        await self._changed()
        return pb.MoveKindsResponse(queue=_queue(moved))

    async def PauseJobs(self, request: pb.PauseJobsRequest, context: Any) -> pb.PauseJobsResponse:
        await self._queues.rest(step_of(request), _pause(request.target), paused=True)
        await leases_are_over(self._queues)
        return pb.PauseJobsResponse()

    async def ResumeJobs(self, request: pb.ResumeJobsRequest, context: Any) -> pb.ResumeJobsResponse:
        await self._queues.rest(step_of(request), _pause(request.target), paused=False)
        await self._changed()
        return pb.ResumeJobsResponse()

    async def ListPauses(self, request: pb.ListPausesRequest, context: Any) -> pb.ListPausesResponse:
        size = page_size(request.page_size)
        found = await self._queues.list_pauses(page_start(request, _place, (0, "", "")), size + 1)
        token = next_token(request, list(found[size - 1].place)) if len(found) > size else ""
        return pb.ListPausesResponse(pauses=map(_target, found[:size]), next_page_token=token)

    async def SetTenantWeight(self, request: pb.SetTenantWeightRequest, context: Any) -> pb.SetTenantWeightResponse:
        await self._queues.set_weight(step_of(request), UUID(request.weight.tenant_id), request.weight.weight)
        await self._changed()
        return pb.SetTenantWeightResponse()

    async def ListTenantWeights(
        self, request: pb.ListTenantWeightsRequest, context: Any
    ) -> pb.ListTenantWeightsResponse:
        size = page_size(request.page_size)
        found = await self._queues.list_weights(page_start(request, _tenant, UUID(int=0)), size + 1)
        token = next_token(request, [str(found[size - 1][0])]) if len(found) > size else ""
        weights = [pb.TenantWeight(tenant_id=str(tenant_id), weight=weight) for tenant_id, weight in found[:size]]
        return pb.ListTenantWeightsResponse(weights=weights, next_page_token=token)

    async def GetDepths(self, request: pb.GetDepthsRequest, context: Any) -> pb.GetDepthsResponse:
        counts = await self._census.latest()
        return pb.GetDepthsResponse(
            kinds=map(_depth, counts.depths),
            tenants=[
                pb.TenantDepth(tenant_id=str(t.tenant_id), waiting=t.waiting, leased=t.leased)
                for t in counts.tenants[: request.top_tenants]
            ],
            computed_at=stamp(counts.at),
            rates=map(_rate, counts.flows),
        )


def _rate(flow: Flow) -> pb.KindRate:
    seconds, ended = WINDOW.total_seconds(), flow.completed + flow.dead
    return pb.KindRate(
        queue=flow.queue,
        kind=flow.kind,
        enqueued_per_second=flow.enqueued / seconds,
        completed_per_second=flow.completed / seconds,
        dead_per_second=flow.dead / seconds,
        cancelled_per_second=flow.cancelled / seconds,
        dead_letter_ratio=flow.dead / ended if ended else None,
    )


def _depth(row: Depth) -> pb.KindDepth:
    return pb.KindDepth(
        queue=row.queue,
        kind=row.kind,
        priority=row.priority,  # type: ignore[arg-type]
        scheduled=row.scheduled,
        ready=row.ready,
        leased=row.leased,
        oldest_ready_at=stamp(row.oldest_ready_at),
        dead=row.dead,
        held=row.held,
    )


def name_of(key: list[Any]) -> str:
    """Where a page by names begins; raises ValueError."""
    (name,) = key
    if type(name) is not str:
        raise ValueError("no name")
    return name


def _tenant(key: list[Any]) -> UUID:
    return UUID(name_of(key))


def _place(key: list[Any]) -> tuple[int, str, str]:
    rank, name, kind = key
    if (type(rank), type(name), type(kind)) != (int, str, str) or not 0 < rank <= 3:
        raise ValueError("no place")
    return rank, name, kind


def _terms(queue: pb.Queue) -> Terms:
    retry = queue.retry
    base, cap = backoff_of(
        retry.base.ToTimedelta() if retry.HasField("base") else None,
        retry.cap.ToTimedelta() if retry.HasField("cap") else None,
    )
    return Terms(
        name=queue.name,
        priority=queue.priority or queue_service_pb2.JOB_PRIORITY_NORMAL,
        max_attempts=queue.max_attempts or MAX_ATTEMPTS,
        backoff_base=base,
        backoff_cap=cap,
        lost_lease_limit=queue.lost_lease_limit if queue.HasField("lost_lease_limit") else LOST_LEASE_LIMIT,
        max_in_flight=queue.max_in_flight,
        completed_retention=_seconds(queue, "completed_retention", COMPLETED_RETENTION),
        dead_retention=_seconds(queue, "dead_retention", DEAD_RETENTION),
        dead_letters=queue.dead_letters or pb.DEAD_LETTERS_KEEP,
        rate=_limit(queue, "rate"),
        tenant_rate=_limit(queue, "tenant_rate"),
        key_rate=_limit(queue, "key_rate"),
    )


def _limit(queue: pb.Queue, name: RateName) -> Limit | None:
    if not queue.HasField(name):
        return None
    rate: pb.RateLimit = getattr(queue, name)
    return limit_of(rate.jobs, rate.per.ToTimedelta(), rate.burst)


def _seconds(queue: pb.Queue, field: str, default: timedelta) -> int:
    given: timedelta = getattr(queue, field).ToTimedelta() if queue.HasField(field) else default  # type: ignore[arg-type]
    return int(given.total_seconds())


def _queue(row: Queue) -> pb.Queue:
    terms = row.terms
    queue = pb.Queue(
        name=terms.name,
        priority=terms.priority,  # type: ignore[arg-type]
        max_attempts=terms.max_attempts,
        lost_lease_limit=terms.lost_lease_limit,
        max_in_flight=terms.max_in_flight,
        paused=row.paused,
        kinds=row.kinds,
        dead_letters=terms.dead_letters,  # type: ignore[arg-type]
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
    )
    queue.retry.base.FromMilliseconds(terms.backoff_base)
    queue.retry.cap.FromMilliseconds(terms.backoff_cap)
    queue.completed_retention.FromSeconds(terms.completed_retention)
    queue.dead_retention.FromSeconds(terms.dead_retention)
    for name in RATES:
        if (limit := getattr(terms, name)) is not None:
            rate: pb.RateLimit = getattr(queue, name)
            rate.jobs, rate.burst = limit.jobs, limit.burst
            rate.per.FromMilliseconds(limit.ms)
    return queue


def _pause(target: pb.PauseTarget) -> Pause:
    if target.HasField("tenant"):
        return Pause(kind=target.tenant.kind, tenant_id=UUID(target.tenant.tenant_id))
    return Pause(queue=target.queue, kind=target.kind)


def _target(pause: Pause) -> pb.PauseTarget:
    if pause.tenant_id is not None:
        return pb.PauseTarget(tenant=pb.TenantPause(tenant_id=str(pause.tenant_id), kind=pause.kind))
    return pb.PauseTarget(kind=pause.kind) if pause.kind else pb.PauseTarget(queue=pause.queue)
