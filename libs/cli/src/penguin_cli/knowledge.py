"""What each tier knows of one email. Every question has a short deadline, and a tier that does not answer is `Away`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.notifications.v1 import notification_service_pb2 as notification_pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1.facts_service_pb2_grpc import FactsServiceStub
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_devstack.spool import read_messages
from penguin_devstack.stack import LocalStack
from penguin_orchestrator import etl
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError

DEADLINE_S = 3.0
SEND_JOB = "email.send"
_JOBS_PAGE = 1000
_JOB_PAGES = 100
_NOTIFICATION_PAGES = 10
# A job is made after its email; clocks of two tiers may differ by this much (seconds).
_CLOCKS_S = 60


@dataclass(frozen=True)
class Away:
    """A tier that gave no answer, and why."""

    why: str


@dataclass(frozen=True)
class NotAsked:
    """A question that could not be put, for OLTP gave no key."""


@dataclass(frozen=True)
class Facts:
    """How far OLAP is loaded, and whether the email's last change is within."""

    through: Timestamp
    covers: bool


ContentKnown = content_pb.ContentMetadata | NotAsked | Away | None
JobKnown = queue_pb.Job | Away | None
FactsKnown = Facts | NotAsked | Away | None
NotifiedKnown = notification_pb.Notification | NotAsked | Away | None


@dataclass(frozen=True)
class Known:
    """What all of them said. `spooled` are the times of arrival at the local SMTP receiver, None without one."""

    email_id: UUID
    email: email_pb.Email | Away | None
    outbox: tier_pb.GetStatusResponse | Away
    content: ContentKnown
    job: JobKnown
    facts: FactsKnown
    notified: NotifiedKnown
    spooled: list[str] | None


def _away(error: TierError) -> Away:
    return Away(f"{error.code.name} {error.reason}".strip())


def at(stamp: Timestamp) -> str:
    """A moment in UTC, to the millisecond."""
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"


def word(enum: Any, value: int) -> str:
    """A status as a word: EMAIL_STATUS_SENT of EmailStatus is `sent`."""
    common = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    return str(enum.Name(value)).removeprefix(common).lower().replace("_", " ")


def word_of_state(value: int) -> str:
    """A content's state as a word."""
    return word(content_pb.ContentState, value)


def word_of_job(value: int) -> str:
    """A job's state as a word."""
    return word(queue_pb.JobState, value)


async def of_oltp(oltp: Tier, tenant_id: UUID, email_id: UUID) -> email_pb.Email | Away | None:
    """The ledger's row with attempts and tallies; None where the tenant has no such email."""
    request = email_pb.GetEmailRequest(tenant_id=str(tenant_id), email_id=str(email_id))
    try:
        reply = await oltp.call(oltp.stub(EmailServiceStub).GetEmail, request, timeout=DEADLINE_S)
    except TierError as error:
        return None if error.reason == "NOT_FOUND" else _away(error)
    found: email_pb.Email = reply.email
    return found


async def of_outbox(oltp: Tier) -> tier_pb.GetStatusResponse | Away:
    """What OLTP still owes, of all tenants together: rows are the relay's to read, and are not looked into."""
    try:
        reply: tier_pb.GetStatusResponse = await oltp.call(
            oltp.stub(TierServiceStub).GetStatus, tier_pb.GetStatusRequest(), timeout=DEADLINE_S
        )
    except TierError as error:
        return _away(error)
    return reply


async def of_content(content: Tier, tenant_id: UUID, email: email_pb.Email | None) -> ContentKnown:
    """The content's sizes and state; None where the key is unknown."""
    if email is None:
        return NotAsked()
    request = content_pb.GetContentRequest(
        tenant_id=str(tenant_id), storage_key=email.content_storage_key, view=content_pb.CONTENT_VIEW_METADATA
    )
    try:
        reply = await content.call(content.stub(ContentServiceStub).GetContent, request, timeout=DEADLINE_S)
    except TierError as error:
        return None if error.reason == "NOT_FOUND" else _away(error)
    metadata: content_pb.ContentMetadata = reply.content.metadata
    return metadata


async def of_queue(queue: Tier, tenant_id: UUID, email_id: UUID, email: email_pb.Email | None) -> JobKnown:
    """The job that sends it: searched from the newest back to the email's creation, at most 100,000 jobs. Which email a
    job is for stands in its payload, and nowhere else."""
    oldest = email.queued_at.seconds - _CLOCKS_S if email is not None else 0
    request = queue_pb.ListJobsRequest(tenant_id=str(tenant_id), page_size=_JOBS_PAGE, kind=SEND_JOB)
    for _ in range(_JOB_PAGES):
        try:
            reply = await queue.call(queue.stub(QueueServiceStub).ListJobs, request, timeout=DEADLINE_S)
            sender = await _sender(queue, tenant_id, email_id, [job.id for job in reply.jobs])
        except TierError as error:
            return _away(error)
        for job in reply.jobs:
            if job.id == sender:
                found: queue_pb.Job = job
                return found
        if not reply.next_page_token or (reply.jobs and reply.jobs[-1].created_at.seconds < oldest):
            return None
        request.page_token = reply.next_page_token
    return None


async def _sender(queue: Tier, tenant_id: UUID, email_id: UUID, ids: Sequence[int]) -> int | None:
    """Which of these jobs sends the email, if any does. Raises TierError."""
    while ids:
        request = queue_pb.GetJobPayloadsRequest(tenant_id=str(tenant_id), job_ids=ids)
        reply = await queue.call(queue.stub(QueueServiceStub).GetJobPayloads, request, timeout=DEADLINE_S)
        for each in reply.payloads:
            if _sends(each.payload, email_id):
                return int(each.job_id)
        ids = list(reply.deferred_ids)
    return None


def _sends(body: bytes, email_id: UUID) -> bool:
    try:
        payload = json.loads(body)
    except ValueError:
        return False
    return isinstance(payload, dict) and payload.get("email_id") == str(email_id)


async def of_olap(olap: Tier, tenant_id: UUID, email: email_pb.Email | None) -> FactsKnown:
    """How far the tenant's facts are loaded; None before the first load."""
    if email is None:
        return NotAsked()
    request = facts_pb.GetWatermarkRequest(tenant_id=str(tenant_id), source=etl.SOURCE)
    try:
        reply = await olap.call(olap.stub(FactsServiceStub).GetWatermark, request, timeout=DEADLINE_S)
    except TierError as error:
        return _away(error)
    through = reply.watermark.data_through
    if not reply.HasField("watermark") or not through.seconds:
        return None
    return Facts(through, _last_change(email).ToNanoseconds() <= through.ToNanoseconds())


def _last_change(email: email_pb.Email) -> Timestamp:
    stamps = [email.queued_at, email.sending_at, email.sent_at, email.finished_at]
    stamps += [tally.last_at for tally in email.tallies]
    return max(stamps, key=lambda stamp: stamp.ToNanoseconds())


async def of_notifications(notifications: Tier, tenant_id: UUID, email: email_pb.Email | None) -> NotifiedKnown:
    """What the tenant was told of the email's campaign, among its newest notifications."""
    if email is None:
        return NotAsked()
    request = notification_pb.ListNotificationsRequest(tenant_id=str(tenant_id), page_size=200)
    for _ in range(_NOTIFICATION_PAGES):
        try:
            method = notifications.stub(NotificationServiceStub).ListNotifications
            reply = await notifications.call(method, request, timeout=DEADLINE_S)
        except TierError as error:
            return _away(error)
        if not email.campaign_id:
            return None
        for each in reply.notifications:
            if each.subject_ref == email.campaign_id:
                found: notification_pb.Notification = each
                return found
        if not reply.next_page_token:
            return None
        request.page_token = reply.next_page_token
    return None


def of_spool(root: Path, email: email_pb.Email | None) -> list[str] | None:
    """When the local SMTP receiver took the email, each time it did; None where there is no such receiver."""
    store = LocalStack(root).smtp_store
    if email is None or not store.exists():
        return None
    parser = BytesHeaderParser()
    return [
        f"{message.received_at.astimezone(UTC):%H:%M:%S.%f}"[:-3] + " UTC"
        for message in read_messages(store)
        if email.message_id.encode() in message.content[:8192]
        and str(parser.parsebytes(message.content)["Message-ID"]).strip() == email.message_id
    ]
