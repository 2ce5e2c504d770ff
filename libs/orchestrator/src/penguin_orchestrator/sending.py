"""The main job: an email's body into Content, its row and what it owes into OLTP. The row's commit is the pivot.

Before the pivot a failure is undone (the key is deleted); an unknown answer at the pivot is only asked again, never undone;
after it everything goes forward through the outbox. Batches are first-class: a send is a batch of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from penguin.common.v1 import errors_pb2
from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import email_service_pb2 as oltp_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin_orchestrator import blobs, keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import (
    Attachment,
    OutcomeUnknownError,
    OutgoingEmail,
    Refusal,
    SendResult,
    Sent,
    StoredAttachment,
)

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("penguin.orchestrator")

# How long contents wait for their claim; the relay claims within seconds, or after an outage of this length.
CLAIM_WITHIN = timedelta(hours=6)
# A batch sent to Content stays below its message limit (bytes).
BATCH_BYTES = 3 * 1024 * 1024
BATCH_ITEMS = 500
# Attachments above this go by stream, and the batch names them by hash (bytes).
INLINE_BLOB = 512 * 1024
DEADLINE_S = 30.0
# How long Content is asked before a send is given up with nothing done; a launch is more patient (seconds).
PUT_DEADLINE_S = 3.0
COMPENSATE_S = 5.0


@dataclass(frozen=True)
class _Prepared:
    """One email with what was minted for it."""

    email: OutgoingEmail
    id: UUID
    request_id: UUID
    key: str


class Sender:
    """Sends emails of any tenant through Content and OLTP."""

    def __init__(self, content: Tier, oltp: Tier) -> None:
        self._content = content
        self._oltp = oltp

    async def send_emails(
        self,
        tenant_id: UUID,
        emails: Sequence[OutgoingEmail],
        *,
        deadline_s: float = DEADLINE_S,
        put_deadline_s: float = PUT_DEADLINE_S,
    ) -> list[SendResult]:
        """Send many; answers in order, one by one. Returns once they are durable.

        Raises TierError when nothing was done (Content gave no answer in `put_deadline_s` seconds, or a tier refused,
        and what had been stored is undone) and OutcomeUnknownError when OLTP gave none in `deadline_s`.
        """
        prepared = [
            _Prepared(email, keys.new_id(), email.request_id or uuid4(), keys.storage_key()) for email in emails
        ]
        results: list[SendResult] = []
        with _tracer.start_as_current_span("send_emails", record_exception=False) as span:
            span.set_attribute("penguin.tenant_id", str(tenant_id))
            span.set_attribute("penguin.emails", len(emails))
            for batch in _batches(prepared):
                results += await self._send_batch(tenant_id, batch, deadline_s, put_deadline_s)
        return results

    async def _send_batch(
        self, tenant_id: UUID, batch: list[_Prepared], deadline_s: float, put_deadline_s: float
    ) -> list[SendResult]:
        claim_by = datetime.now(UTC) + CLAIM_WITHIN
        generation = keys.generation()
        refused: dict[UUID, Refusal] = {}
        try:
            refused |= await self._put(tenant_id, batch, claim_by, generation, put_deadline_s)
            stored = [each for each in batch if each.id not in refused]
            created = await self._pivot(tenant_id, stored, claim_by, generation, deadline_s) if stored else {}
        except OutcomeUnknownError:
            raise  # never undone: the emails may stand
        except BaseException:
            await self._undo(tenant_id, [each.key for each in batch])
            raise
        await self._undo(tenant_id, [p.key for p in stored if _lost(p, created[p.id])])
        return [refused.get(p.id) or created[p.id] for p in batch]

    async def _put(
        self, tenant_id: UUID, batch: Sequence[_Prepared], claim_by: datetime, generation: int, deadline_s: float
    ) -> dict[UUID, Refusal]:
        """Store the bodies; answers which were refused."""
        at = Timestamp()
        at.FromDatetime(claim_by)
        shared, large = _attachments(batch)
        for data in large.values():
            await blobs.upload(self._content, tenant_id, data, at)
        request = content_pb.BatchPutContentsRequest(
            tenant_id=str(tenant_id),
            contents=[_content(p) for p in batch],
            blobs=shared.values(),
            claim_by=at,
            generation=generation,
        )
        method = self._content.stub(ContentServiceStub).BatchPutContents
        reply = await self._content.insist(method, request, deadline_s=deadline_s)
        return {
            p.id: _refusal(result.error)
            for p, result in zip(batch, reply.results, strict=True)
            if result.WhichOneof("outcome") == "error"
        }

    async def _pivot(
        self, tenant_id: UUID, batch: Sequence[_Prepared], claim_by: datetime, generation: int, deadline_s: float
    ) -> dict[UUID, SendResult]:
        request = oltp_pb.BatchCreateEmailsRequest(
            tenant_id=str(tenant_id), emails=[_row(p) for p in batch], content_generation=generation
        )
        request.content_claim_by.FromDatetime(claim_by)
        method = self._oltp.stub(EmailServiceStub).BatchCreateEmails
        try:
            reply = await self._oltp.insist(method, request, deadline_s=deadline_s)
        except TierError as error:
            if error.outcome_unknown and not _never_arrived(error):
                raise OutcomeUnknownError(tuple(p.request_id for p in batch), error) from error
            raise
        return {p.id: _result(result) for p, result in zip(batch, reply.results, strict=True)}

    async def _undo(self, tenant_id: UUID, storage_keys: Sequence[str]) -> None:
        """Delete what no email refers to. Best effort: what stays is unclaimed, and expires to quarantine."""
        if not storage_keys:
            return
        request = content_pb.DeleteContentsRequest(
            tenant_id=str(tenant_id), request_id=str(uuid4()), storage_keys=storage_keys, unclaimed_only=True
        )
        with contextlib.suppress(TierError):
            method = self._content.stub(ContentServiceStub).DeleteContents
            await self._content.insist(method, request, deadline_s=COMPENSATE_S)
            return
        log.warning("%d contents left to quarantine", len(storage_keys))


def _never_arrived(error: TierError) -> bool:
    """Whether the tier refused before it began: its database was known to be away, or no token was to be had."""
    return error.reason in {"NO_TOKEN", "DRAINING"}


def _lost(prepared: _Prepared, result: SendResult) -> bool:
    """Whether our key is not the one that stands: refused, or a repeat whose first key won."""
    return isinstance(result, Refusal) or result.storage_key != prepared.key


def _size(email: OutgoingEmail) -> int:
    inline = sum(len(a.data) for a in email.attachments if isinstance(a, Attachment) and len(a.data) <= INLINE_BLOB)
    return len(email.text.encode()) + len(email.html.encode()) + inline + 1024


def _batches(prepared: Sequence[_Prepared]) -> Iterator[list[_Prepared]]:
    """Batches within the tiers' limits, in order."""
    batch: list[_Prepared] = []
    size = 0
    for each in prepared:
        grows = _size(each.email)
        if batch and (len(batch) >= BATCH_ITEMS or size + grows > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += grows
    if batch:
        yield batch


def _attachments(batch: Sequence[_Prepared]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The batch's distinct attachments by hash: those to send along, and those to stream first."""
    shared: dict[str, bytes] = {}
    large: dict[str, bytes] = {}
    for prepared in batch:
        for attachment in prepared.email.attachments:
            if isinstance(attachment, Attachment):
                target = large if len(attachment.data) > INLINE_BLOB else shared
                target[hashlib.sha256(attachment.data).hexdigest()] = attachment.data
    return shared, large


def _content(prepared: _Prepared) -> content_pb.NewContent:
    email = prepared.email
    return content_pb.NewContent(
        # An id of this try alone: OLTP decides which try stands, and the loser's content is deleted.
        request_id=str(uuid4()),
        storage_key=prepared.key,
        composed=content_pb.ComposedBody(
            text=email.text,
            html=email.html,
            headers=[content_pb.Header(name=name, value=value) for name, value in email.headers.items()],
        ),
        attachments=[_attachment(a) for a in email.attachments],
    )


def _attachment(attachment: Attachment | StoredAttachment) -> content_pb.NewAttachment:
    sha256 = (
        attachment.sha256 if isinstance(attachment, StoredAttachment) else hashlib.sha256(attachment.data).hexdigest()
    )
    inline = bool(attachment.content_id)
    return content_pb.NewAttachment(
        filename=attachment.filename,
        mime_type=attachment.mime_type,
        disposition=content_pb.DISPOSITION_INLINE if inline else content_pb.DISPOSITION_ATTACHMENT,
        content_id=attachment.content_id,
        blob_sha256=sha256,
    )


def _row(prepared: _Prepared) -> oltp_pb.NewEmail:
    email = prepared.email
    row = oltp_pb.NewEmail(
        request_id=str(prepared.request_id),
        id=str(prepared.id),
        recipient=email.recipient,
        recipient_name=email.recipient_name,
        sender=email.sender,
        sender_name=email.sender_name,
        subject=email.subject,
        content_storage_key=prepared.key,
        campaign_id=str(email.campaign_id or ""),
        step_id=str(email.step_id or ""),
        lead_id=str(email.lead_id or ""),
        email_account_id=str(email.email_account_id or ""),
        priority=oltp_pb.SendPriority.Value(f"SEND_PRIORITY_{email.priority.upper()}"),
    )
    if email.send_at is not None:
        row.send_at.FromDatetime(email.send_at)
    return row


def _refusal(error: errors_pb2.ItemError) -> Refusal:
    reason = errors_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
    return Refusal(error.code, reason, error.message, error.field)


def _result(result: oltp_pb.CreateEmailResult) -> SendResult:
    if result.WhichOneof("outcome") == "error":
        return _refusal(result.error)
    return Sent(UUID(result.email.id), result.email.message_id, result.email.content_storage_key)
