"""Contents as they are asked for and as they are known: values, and how one is made ready to be stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from penguin_chassis.faults import InvalidArgument, ResourceExhausted
from penguin_content.domain import mail
from penguin_content.domain.codec import Packed, pack, pieces
from penguin_content.domain.composed import Composed, to_canonical

UNCLAIMED = "unclaimed"
CLAIMED = "claimed"
QUARANTINED = "quarantined"

METADATA = "metadata"
BODY = "body"
FULL = "full"

# A composed body larger than this could not be read back within one message (bytes, canonical form).
COMPOSED_LIMIT = 3_600_000


@dataclass(frozen=True, slots=True)
class Attachment:
    """A stored attachment without its bytes: decoded size in bytes, SHA-256 in lower-case hex."""

    position: int
    filename: str
    mime_type: str
    disposition: str
    content_id: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a content without its body. Sizes in bytes, attachments not included."""

    storage_key: str
    state: str
    content_hash: str
    raw_size: int
    stored_size: int
    codec: str
    created_at: datetime
    claim_by: datetime
    expire_at: datetime | None
    raw_source: bool
    generation: int
    attachments: tuple[Attachment, ...] = ()
    defects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes ready to be stored below the keys: hash (lower-case hex), size, and their packed pieces."""

    sha256: str
    raw_size: int
    pieces: tuple[Packed, ...]

    @property
    def stored_size(self) -> int:
        """Bytes after compression."""
        return sum(len(piece.data) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class NewContent:
    """A content ready to be stored. An attachment that only names a blob has size -1 until that blob is found."""

    storage_key: str
    expire_at: datetime | None
    raw_source: bool
    content_hash: str
    raw_size: int
    body: Packed
    attachments: tuple[Attachment, ...] = ()
    defects: tuple[str, ...] = ()
    # Whether people stand in it, and no row refers to it: its time ends with its claim_by.
    lists_people: bool = False


def blob_of(raw: bytes, sha256: str) -> Blob:
    """Bytes and their hash as a blob."""
    return Blob(sha256, len(raw), tuple(map(pack, pieces(raw))))


def compose(
    storage_key: str, expire_at: datetime | None, body: Composed, attachments: Sequence[Attachment]
) -> NewContent:
    """A composed body ready to be stored; raises ResourceExhausted (TOO_LARGE)."""
    canonical = to_canonical(body)
    if len(canonical) > COMPOSED_LIMIT:
        raise ResourceExhausted(
            f"A composed body has at most {COMPOSED_LIMIT} bytes.", reason="TOO_LARGE", field="composed"
        )
    return NewContent(
        _sound(storage_key), expire_at, raw_source=False, content_hash=hashlib.sha256(canonical).hexdigest(),
        raw_size=len(canonical), body=pack(canonical), attachments=tuple(attachments),
    )  # fmt: skip


def receive(storage_key: str, expire_at: datetime | None, raw: bytes) -> NewContent:
    """Imported mail ready to be stored: the raw source, and what it is seen to carry."""
    parsed = mail.parse(raw)
    attachments = tuple(
        Attachment(
            position, part.filename, part.mime_type, part.disposition, part.content_id, len(part.data),
            hashlib.sha256(part.data).hexdigest(),
        )
        for position, part in enumerate(parsed.attachments)
    )  # fmt: skip
    return NewContent(
        _sound(storage_key), expire_at, raw_source=True, content_hash=hashlib.sha256(raw).hexdigest(),
        raw_size=len(raw), body=pack(raw), attachments=attachments, defects=parsed.defects,
    )  # fmt: skip


def _sound(storage_key: str) -> str:
    if not storable(storage_key):
        raise InvalidArgument("A storage key holds no NUL.", field="storage_key")
    return storage_key


def storable(storage_key: str) -> bool:
    """Whether the database can hold such a key at all; none is ever stored under another."""
    return "\0" not in storage_key
