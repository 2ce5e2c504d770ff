"""What callers hand in and get back: plain values, no wire types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from penguin_orchestrator.errors import TierError


@dataclass(frozen=True)
class Attachment:
    """A file that goes with an email. `content_id` (no angle brackets) makes it an inline part."""

    filename: str
    mime_type: str
    data: bytes
    content_id: str = ""


@dataclass(frozen=True)
class StoredAttachment:
    """A file the tenant has stored before, by its SHA-256 (lower-case hex)."""

    filename: str
    mime_type: str
    sha256: str
    content_id: str = ""


@dataclass(frozen=True)
class OutgoingEmail:
    """An email to send. `request_id` makes a repeat the same email; ids refer to OLTP's own rows."""

    recipient: str
    sender: str
    subject: str
    text: str = ""
    html: str = ""
    recipient_name: str = ""
    sender_name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment | StoredAttachment, ...] = ()
    campaign_id: UUID | None = None
    step_id: UUID | None = None
    lead_id: UUID | None = None
    email_account_id: UUID | None = None
    priority: str = "normal"
    send_at: datetime | None = None
    request_id: UUID | None = None


@dataclass(frozen=True)
class Sent:
    """The email stands in the ledger and will be sent: nothing that happens now loses it."""

    email_id: UUID
    message_id: str
    storage_key: str


@dataclass(frozen=True)
class Refusal:
    """One email of a batch was refused; the others stand."""

    code: int
    reason: str
    message: str
    field: str = ""


SendResult = Sent | Refusal


class SendError(Exception):
    """A single email was refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason}: {refusal.message}")
        self.refusal = refusal


class OutcomeUnknownError(Exception):
    """No answer at the pivot, or a part that stands: the emails may be sent. Nothing that may stand was undone.

    Ask again with the same request_ids (in the order of the call's emails): what stands is answered, the rest is sent. Until
    then the outcome stays open: a TierError of a later call says of that call alone that it did nothing.
    """

    def __init__(self, request_ids: tuple[UUID, ...], cause: TierError) -> None:
        super().__init__(f"the outcome of {len(request_ids)} emails is unknown: {cause}")
        self.request_ids = request_ids
        self.cause = cause
