"""What callers do to each tier, as small as it can be: one read by key and one write, and a send. Each raises TierError."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1 import report_service_pb2 as report_pb
from penguin.olap.v1.facts_service_pb2_grpc import FactsServiceStub
from penguin.olap.v1.report_service_pb2_grpc import ReportServiceStub
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.errors import item_failure
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.platform import Penguin

# Jobs that the drill works on itself.
KIND = "drill.step"
TIMEOUT_S = 5.0
TEXT = "Hello, this is a drill.\n" * 20
# A body that nobody claims may be put aside after so long (seconds), and deleted days later: far beyond the row that looks it up.
CLAIM_BY_S = 3600


@dataclass(frozen=True)
class Sample:
    """A tenant with one of everything that is read: an email whose body stands under `storage_key`, a lead, a campaign's parts."""

    tenant: UUID
    mailbox_address: str
    mailbox: UUID
    template: UUID
    lead: UUID
    email: UUID
    storage_key: str


async def read_oltp(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S) -> None:
    """One email of the ledger by its id."""
    oltp = penguin.tiers["oltp"]
    request = email_pb.GetEmailRequest(tenant_id=str(sample.tenant), email_id=str(sample.email))
    await oltp.call(oltp.stub(EmailServiceStub).GetEmail, request, timeout=timeout)


async def read_content(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S) -> None:
    """One body by its key."""
    content = penguin.tiers["content"]
    request = content_pb.GetContentRequest(
        tenant_id=str(sample.tenant), storage_key=sample.storage_key, view=content_pb.CONTENT_VIEW_BODY
    )
    await content.call(content.stub(ContentServiceStub).GetContent, request, timeout=timeout)


async def report(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S) -> datetime:
    """The tenant's campaigns today; until when the figures reach (UTC)."""
    olap, day = penguin.tiers["olap"], datetime.now(UTC).date().isoformat()
    span = report_pb.DaySpan(first_day=day, last_day=day)
    request = report_pb.ListCampaignTotalsRequest(tenant_id=str(sample.tenant), span=span)
    reply = await olap.call(olap.stub(ReportServiceStub).ListCampaignTotals, request, timeout=timeout)
    through: datetime = reply.freshness.data_through.ToDatetime(UTC)
    return through


async def read_olap(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S) -> None:
    """A report."""
    await report(penguin, sample, timeout)


async def read_queue(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S) -> None:
    """The tenant's jobs that wait."""
    queue = penguin.tiers["queue"]
    request = queue_pb.ListJobsRequest(tenant_id=str(sample.tenant), page_size=5)
    await queue.call(queue.stub(QueueServiceStub).ListJobs, request, timeout=timeout)


async def read_notifications(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S) -> None:
    """How much is unread."""
    notifications = penguin.tiers["notifications"]
    request = notification_pb.CountUnreadRequest(tenant_id=str(sample.tenant))
    await notifications.call(notifications.stub(NotificationServiceStub).CountUnread, request, timeout=timeout)


async def write_oltp(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S, key: UUID | None = None) -> None:
    """A lead under this id."""
    oltp, key = penguin.tiers["oltp"], key or keys.new_id()
    lead = lead_pb.NewLead(request_id=str(uuid4()), id=str(key), email=f"lead-{key}@example.com", list="drill")
    request = lead_pb.BatchCreateLeadsRequest(tenant_id=str(sample.tenant), leads=[lead])
    _all_stored("oltp", await oltp.call(oltp.stub(LeadServiceStub).BatchCreateLeads, request, timeout=timeout))


async def write_content(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S, key: UUID | None = None) -> None:
    """A body that nobody claims, under this key."""
    content = penguin.tiers["content"]
    new = content_pb.NewContent(
        request_id=str(uuid4()), storage_key=storage_key(key or uuid4()), composed=content_pb.ComposedBody(text=TEXT)
    )
    request = content_pb.BatchPutContentsRequest(
        tenant_id=str(sample.tenant), contents=[new], generation=keys.generation()
    )
    request.claim_by.FromSeconds(int(datetime.now(UTC).timestamp()) + CLAIM_BY_S)
    _all_stored(
        "content", await content.call(content.stub(ContentServiceStub).BatchPutContents, request, timeout=timeout)
    )


def storage_key(key: UUID) -> str:
    """What such a body is called."""
    return f"drill/{key}"


async def write_olap(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S, key: UUID | None = None) -> None:
    """The mark of a source of our own."""
    olap = penguin.tiers["olap"]
    request = facts_pb.CommitWatermarkRequest(
        tenant_id=str(sample.tenant), request_id=str(key or uuid4()), source="drill", cursor="drill"
    )
    request.data_through.FromDatetime(datetime.now(UTC))
    await olap.call(olap.stub(FactsServiceStub).CommitWatermark, request, timeout=timeout)


async def write_queue(penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S, key: UUID | None = None) -> None:
    """A job for the drill's own worker, which knows it by this id."""
    queue, payload = penguin.tiers["queue"], json.dumps({"act": str(key or uuid4())}).encode()
    request = queue_pb.EnqueueBatchRequest(
        tenant_id=str(sample.tenant), request_id=str(uuid4()), kind=KIND, payloads=[payload]
    )
    await queue.call(queue.stub(QueueServiceStub).EnqueueBatch, request, timeout=timeout)


async def write_notifications(
    penguin: Penguin, sample: Sample, timeout: float = TIMEOUT_S, key: UUID | None = None
) -> None:
    """A notification under this id."""
    notifications, key = penguin.tiers["notifications"], key or keys.new_id()
    new = notification_pb.NewNotification(
        request_id=str(uuid4()), id=str(key), type="drill.act", title="Drill", channel=notification_pb.CHANNEL_IN_APP
    )
    request = notification_pb.BatchCreateNotificationsRequest(tenant_id=str(sample.tenant), notifications=[new])
    method = notifications.stub(NotificationServiceStub).BatchCreateNotifications
    _all_stored("notifications", await notifications.call(method, request, timeout=timeout))


def _all_stored(tier: str, reply: Any) -> None:
    for result in reply.results:
        if result.WhichOneof("outcome") == "error":
            raise item_failure(tier, result.error)


def letter(sample: Sample, recipient: str, send_at: datetime | None = None) -> OutgoingEmail:
    """An email to that address; its request_id makes a repeat the same."""
    return OutgoingEmail(
        recipient=recipient, sender=sample.mailbox_address, subject="Drill", text=TEXT, request_id=keys.new_id(),
        send_at=send_at,
    )  # fmt: skip


Read = Callable[[Penguin, Sample, float], Awaitable[None]]
Write = Callable[[Penguin, Sample, float, UUID | None], Awaitable[None]]
READS: dict[str, Read] = {
    "oltp": read_oltp, "content": read_content, "olap": read_olap, "queue": read_queue,
    "notifications": read_notifications,
}  # fmt: skip
WRITES: dict[str, Write] = {
    "oltp": write_oltp, "content": write_content, "olap": write_olap, "queue": write_queue,
    "notifications": write_notifications,
}  # fmt: skip
