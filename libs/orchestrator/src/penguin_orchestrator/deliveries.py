"""What outbox rows ask for, carried out at the tier they name. Each delivery may be repeated without a second effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from opentelemetry import trace

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.notifications.v1 import admin_event_service_pb2 as admin_pb
from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier

PER_CALL = 1000
# Jobs of one row that go as a batch of their own.
BATCH_MIN, BATCH_MAX = 20, 5000


class UndeliverableError(Exception):
    """The row asks for what nobody does, or was refused for good; the text is a short class."""


@dataclass(frozen=True)
class Row:
    """One outbox row of one tenant, its payload read."""

    id: UUID
    payload: dict[str, Any]
    traceparent: str

    @classmethod
    def of(cls, row: tier_pb.OutboxRow) -> Row:
        """From the wire."""
        return cls(UUID(row.id), orjson.loads(row.payload), row.traceparent)


Deliver = Callable[[Mapping[str, Tier], UUID, Sequence[Row]], Awaitable[None]]


async def claim_contents(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Tell Content that its keys are referred to."""
    content = tiers["content"]
    storage_keys = [key for row in rows for key in row.payload["storage_keys"]]
    for first in range(0, len(storage_keys), PER_CALL):
        request = content_pb.ClaimContentsRequest(
            tenant_id=str(tenant_id),
            request_id=str(keys.request_id("claim", first, *(row.id for row in rows))),
            storage_keys=storage_keys[first : first + PER_CALL],
        )
        reply = await content.call(content.stub(ContentServiceStub).ClaimContents, request)
        if reply.missing_keys:
            trace.get_current_span().set_attribute("penguin.missing_keys", len(reply.missing_keys))


async def delete_contents(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Tell Content that its keys are referred to no more."""
    content = tiers["content"]
    storage_keys = [key for row in rows for key in row.payload["storage_keys"]]
    for first in range(0, len(storage_keys), PER_CALL):
        request = content_pb.DeleteContentsRequest(
            tenant_id=str(tenant_id),
            request_id=str(keys.request_id("delete", first, *(row.id for row in rows))),
            storage_keys=storage_keys[first : first + PER_CALL],
        )
        await content.call(content.stub(ContentServiceStub).DeleteContents, request)


async def enqueue_jobs(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Put jobs into Queue: a row of many alike as one batch, known by its row; the others together, each known by its
    row and its place in it."""
    queue = tiers["queue"]
    batches = {row.id: batch for row in rows if (batch := _batch(tenant_id, row)) is not None}
    for batch in batches.values():
        await queue.call(queue.stub(QueueServiceStub).EnqueueBatch, batch)
    jobs = [_job(row, n, job) for row in rows if row.id not in batches for n, job in enumerate(row.payload["jobs"])]
    for first in range(0, len(jobs), PER_CALL):
        request = queue_pb.EnqueueJobsRequest(tenant_id=str(tenant_id), jobs=jobs[first : first + PER_CALL])
        reply = await queue.call(queue.stub(QueueServiceStub).EnqueueJobs, request)
        for result in reply.results:
            if result.WhichOneof("outcome") == "error":
                raise UndeliverableError(f"job refused: code {result.error.code}")


def _batch(tenant_id: UUID, row: Row) -> queue_pb.EnqueueBatchRequest | None:
    """A row's jobs as columns; None where they are few or not alike. The same row is always sent the same way."""
    jobs = row.payload["jobs"]
    if not BATCH_MIN <= len(jobs) <= BATCH_MAX:
        return None
    priority, run_at = jobs[0].get("priority", "normal"), jobs[0].get("run_at")
    if any(job.get("priority", "normal") != priority or job.get("run_at") != run_at for job in jobs):
        return None
    request = queue_pb.EnqueueBatchRequest(
        tenant_id=str(tenant_id),
        request_id=str(keys.request_id("jobs", row.id)),
        kind=row.payload["kind"],
        payloads=map(_body, jobs),
        priority=_priority(priority),
        traceparents=[row.traceparent] if row.traceparent else (),
    )
    if run_at:
        request.run_at.FromDatetime(datetime.fromisoformat(run_at))
    return request


def _body(job: dict[str, Any]) -> bytes:
    return orjson.dumps({key: value for key, value in job.items() if key not in {"priority", "run_at"}})


def _priority(word: str) -> queue_pb.JobPriority.ValueType:
    return queue_pb.JobPriority.Value(f"JOB_PRIORITY_{word.upper()}")


def _job(row: Row, place: int, job: dict[str, Any]) -> queue_pb.NewJob:
    wire = queue_pb.NewJob(
        request_id=str(keys.request_id("job", row.id, place)),
        kind=row.payload["kind"],
        payload=_body(job),
        priority=_priority(job.get("priority", "normal")),
        traceparent=row.traceparent,
    )
    if job.get("run_at"):
        wire.run_at.FromDatetime(datetime.fromisoformat(job["run_at"]))
    return wire


async def create_notifications(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Tell a tenant's users."""
    notifications = tiers["notifications"]
    items = [
        notification_pb.NewNotification(
            request_id=str(keys.request_id("notification", row.id, n)),
            id=str(keys.new_id()),
            user_id=item.get("user_id", ""),
            type=item["type"],
            title=item["title"],
            message=item.get("message", ""),
            subject_ref=item.get("subject_ref", ""),
        )
        for row in rows
        for n, item in enumerate(row.payload["notifications"])
    ]
    for first in range(0, len(items), PER_CALL):
        request = notification_pb.BatchCreateNotificationsRequest(
            tenant_id=str(tenant_id), notifications=items[first : first + PER_CALL]
        )
        method = notifications.stub(NotificationServiceStub).BatchCreateNotifications
        for result in (await notifications.call(method, request)).results:
            if result.WhichOneof("outcome") == "error":
                raise UndeliverableError(f"notification refused: code {result.error.code}")


async def create_admin_events(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Raise events for those who run the platform."""
    notifications = tiers["notifications"]
    for row in rows:
        for n, item in enumerate(row.payload["events"]):
            request = admin_pb.CreateAdminEventRequest(
                request_id=str(keys.request_id("admin_event", row.id, n)),
                id=str(keys.new_id()),
                event_type=item["event_type"],
                severity=admin_pb.Severity.Value(f"SEVERITY_{item['severity'].upper()}"),
                description=item["description"],
                tenant_id=str(tenant_id) if item.get("of_tenant", True) else "",
                dedupe_key=item.get("dedupe_key", ""),
            )
            request.details.update(item.get("details", {}))
            await notifications.call(notifications.stub(AdminEventServiceStub).CreateAdminEvent, request)


# (destination, kind) of an outbox row -> what is done about it.
DELIVERIES: dict[tuple[str, str], Deliver] = {
    ("content", "claim_contents"): claim_contents,
    ("content", "delete_contents"): delete_contents,
    ("queue", "enqueue_jobs"): enqueue_jobs,
    ("notifications", "create_notifications"): create_notifications,
    ("notifications", "create_admin_events"): create_admin_events,
}
DESTINATIONS = tuple(sorted({destination for destination, _ in DELIVERIES}))
