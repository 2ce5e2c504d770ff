"""References to mail received or imported. The mail itself stands in another tier; here is the key to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class InboxMessage:
    """One message. `fingerprint` (SHA-256 of its source, hex) makes a second import into the same mailbox a repeat."""

    tenant_id: UUID
    id: UUID
    mailbox: str
    direction: str
    message_id: str
    in_reply_to: str
    thread_id: str
    sender: str
    subject: str
    sent_at: datetime | None
    received_at: datetime
    content_storage_key: str
    content_generation: int
    fingerprint: str
    defects: tuple[str, ...]


@dataclass(frozen=True)
class CreatedInboxMessage:
    """What now stands for a message; it existed: under another's id and key, which the caller's own give way to."""

    id: UUID
    content_storage_key: str
    existed: bool
