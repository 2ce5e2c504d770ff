"""Erased people: what they are known by when nothing else of them is left."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

# What stands where an erased person's address stood. The domain can never be delivered to (RFC 2606).
ERASED = "erased@erased.invalid"
_BLOCK = 64


@dataclass(frozen=True)
class Receipt:
    """One tier's word, or that of `skipped_by` in its place, and where it found the subject mentioned: (table, key, place),
    `mentioned` in all."""

    tier: str
    counts: dict[str, int]
    chain_head: str
    erased_at: datetime
    mentions: list[tuple[str, str, str]] = field(default_factory=list)
    mentioned: int = 0
    skipped_by: str = ""


@dataclass(frozen=True)
class Erasure:
    """One erased subject, by the HMAC of the address (hex)."""

    tenant_id: UUID
    id: UUID
    subject: str
    recorded_at: datetime
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True)
class Export:
    """That somebody had a person's data exported; the person by the HMAC of the address (hex)."""

    tenant_id: UUID
    id: UUID
    subject: str
    actor: str
    asked_at: datetime


@dataclass(frozen=True)
class Item:
    """An email to the subject or a message of theirs, with its content's key."""

    email_id: UUID | None
    message_id: UUID | None
    storage_key: str
    cancelled: bool


@dataclass(frozen=True)
class Items:
    """A page of items; `after` is where the next one begins, None where there is none."""

    items: list[Item]
    after: tuple[str, UUID] | None


def pads(key: bytes) -> tuple[bytes, bytes]:
    """A key of 32 bytes as HMAC-SHA256 uses it: XORed with its inner and its outer pad."""
    block = key.ljust(_BLOCK, b"\0")
    return bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block)


def nameless(event_id: str) -> str:
    """What stands for a provider's id of an event of an erased person's email, for some make theirs of addresses: the same each
    time it is reported, as unique as the id, and what SQL makes of those that stand already."""
    return f"erased/{hashlib.md5(event_id.encode(), usedforsecurity=False).hexdigest()}"
