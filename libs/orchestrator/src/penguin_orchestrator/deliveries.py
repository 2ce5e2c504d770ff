"""What outbox rows ask for, carried out at the tier they name. Each delivery may be repeated without a second effect."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import grpc
import orjson
from opentelemetry import trace

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.notifications.v1 import admin_event_service_pb2 as admin_pb
from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.tier.v1 import erasure_pb2 as erasure_pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis.jsonbytes import json_bytes
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import CLOSED, TierError

PER_CALL = 1000
# Jobs of one row that go as a batch of their own.
BATCH_MIN, BATCH_MAX = 20, 5000
# Of google.rpc.Code.
_INVALID_ARGUMENT = 3
# What a row says of how its jobs are run; the rest is what they are to do.
_TERMS = frozenset({"priority", "run_at", "rate_key"})


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


@contextlib.contextmanager
def _nothing_once_closed() -> Iterator[None]:
    """What a closed tenant refuses is owed to it no more."""
    try:
        yield
    except TierError as error:
        if error.reason != CLOSED:
            raise


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
        # A closed tenant keeps what it has, and a hold what it names: reconcile finds what nothing refers to, once it may go.
        with _nothing_once_closed():
            reply = await content.call(content.stub(ContentServiceStub).DeleteContents, request)
            if reply.held_keys:
                trace.get_current_span().set_attribute("penguin.held_keys", len(reply.held_keys))


async def extend_legal_hold(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Tell Content what else is a person's whom a legal hold keeps. One that was released keeps nothing."""
    content = tiers["content"]
    for row in rows:
        request = erasure_pb.ExtendLegalHoldRequest(
            tenant_id=str(tenant_id), request_id=str(keys.request_id("extend hold", row.id)),
            hold_id=row.payload["hold_id"], storage_keys=row.payload["storage_keys"],
        )  # fmt: skip
        try:
            await content.call(content.stub(TierServiceStub).ExtendLegalHold, request)
        except TierError as error:
            if error.reason != "NOT_FOUND":
                raise


async def enqueue_jobs(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Put jobs into Queue: a row's many of one rate key as one batch, known by its row and key; the others together, each
    known by its row and its place in it. Emails that can have no job any more are taken back: where the tenant was closed
    meanwhile, and where Queue refuses the job itself for what it says, which it will always do."""
    try:
        refused = await _enqueue(tiers["queue"], tenant_id, rows)
    except TierError as error:
        if error.reason != CLOSED:
            raise
        refused = [job["email_id"] for row in rows for job in row.payload["jobs"] if "email_id" in job]
    await _take_back(tiers["oltp"], tenant_id, rows, refused)


async def _take_back(oltp: Tier, tenant_id: UUID, rows: Sequence[Row], ids: Sequence[str]) -> None:
    for first in range(0, len(ids), PER_CALL):
        portion = ids[first : first + PER_CALL]
        request = email_pb.CancelEmailsRequest(
            tenant_id=str(tenant_id),
            # By the emails, too: once the tenant is closed they are all that the rows name.
            request_id=str(keys.request_id("take back", *(row.id for row in rows), *portion)),
            email_ids=portion,
        )
        await oltp.call(oltp.stub(EmailServiceStub).CancelEmails, request)


async def _enqueue(queue: Tier, tenant_id: UUID, rows: Sequence[Row]) -> list[str]:
    """Answers the emails whose jobs are refused for good, each for itself."""
    jobs: list[tuple[Row, int, dict[str, Any]]] = []
    for row in rows:
        for part in _parts(row.payload["jobs"]):
            if len(part) < BATCH_MIN or not await _as_batch(queue, tenant_id, row, [job for _, job in part]):
                jobs += [(row, n, job) for n, job in part]
    refused: list[str] = []
    for first in range(0, len(jobs), PER_CALL):
        portion = jobs[first : first + PER_CALL]
        request = queue_pb.EnqueueJobsRequest(tenant_id=str(tenant_id), jobs=[_job(*each) for each in portion])
        reply = await queue.call(queue.stub(QueueServiceStub).EnqueueJobs, request)
        for (_, _, job), result in zip(portion, reply.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                if result.error.code != _INVALID_ARGUMENT or "email_id" not in job:
                    raise UndeliverableError(f"job refused: code {result.error.code}")
                refused.append(job["email_id"])
    return refused


async def _as_batch(queue: Tier, tenant_id: UUID, row: Row, jobs: Sequence[dict[str, Any]]) -> bool:
    """Put these as one; answers whether that is done. What is refused for what it says is to be asked for job by job: of a call
    as a whole it is not known whether the call was at fault."""
    try:
        await queue.call(queue.stub(QueueServiceStub).EnqueueBatch, _batch(tenant_id, row, jobs))
    except TierError as error:
        if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        return False
    return True


def _parts(jobs: Sequence[dict[str, Any]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """A row's jobs with their places: those of a rate key together, or each for itself where they are too many for a call or
    differ by more. The same row is always parted the same way."""
    alike = {(job.get("priority", "normal"), job.get("run_at")) for job in jobs}
    if len(jobs) > BATCH_MAX or len(alike) > 1:
        return [[(n, job)] for n, job in enumerate(jobs)]
    parts: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for n, job in enumerate(jobs):
        parts.setdefault(job.get("rate_key", ""), []).append((n, job))
    return list(parts.values())


def _batch(tenant_id: UUID, row: Row, jobs: Sequence[dict[str, Any]]) -> queue_pb.EnqueueBatchRequest:
    """Jobs of a row as columns. They differ by what they are to do alone."""
    run_at, rate_key = jobs[0].get("run_at"), jobs[0].get("rate_key", "")
    request = queue_pb.EnqueueBatchRequest(
        tenant_id=str(tenant_id),
        request_id=str(keys.request_id("jobs", row.id, *([rate_key] if rate_key else []))),
        kind=row.payload["kind"],
        payloads=map(_body, jobs),
        priority=_priority(jobs[0].get("priority", "normal")),
        traceparents=[row.traceparent] if row.traceparent else (),
        rate_key=rate_key,
    )
    if run_at:
        request.run_at.FromDatetime(datetime.fromisoformat(run_at))
    return request


def _body(job: dict[str, Any]) -> bytes:
    return json_bytes({key: value for key, value in job.items() if key not in _TERMS})


def _priority(word: str) -> queue_pb.JobPriority.ValueType:
    return queue_pb.JobPriority.Value(f"JOB_PRIORITY_{word.upper()}")


def _job(row: Row, place: int, job: dict[str, Any]) -> queue_pb.NewJob:
    wire = queue_pb.NewJob(
        request_id=str(keys.request_id("job", row.id, place)),
        kind=row.payload["kind"],
        payload=_body(job),
        priority=_priority(job.get("priority", "normal")),
        traceparent=row.traceparent,
        rate_key=job.get("rate_key", ""),
    )
    if job.get("run_at"):
        wire.run_at.FromDatetime(datetime.fromisoformat(job["run_at"]))
    return wire


async def create_notifications(tiers: Mapping[str, Tier], tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Tell a tenant's users; those of a closed one have nothing left to be told of."""
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
        with _nothing_once_closed():
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
    ("content", "extend_legal_hold"): extend_legal_hold,
    ("queue", "enqueue_jobs"): enqueue_jobs,
    ("notifications", "create_notifications"): create_notifications,
    ("notifications", "create_admin_events"): create_admin_events,
}
DESTINATIONS = tuple(sorted({destination for destination, _ in DELIVERIES}))
