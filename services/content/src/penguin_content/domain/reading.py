"""From what is stored to what is read: bodies unpacked, raw sources parsed, and how much fits into one reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penguin_chassis.faults import ResourceExhausted
from penguin_content.domain import mail
from penguin_content.domain.codec import Packed, joined, unpack
from penguin_content.domain.composed import from_canonical
from penguin_content.domain.contents import FULL, METADATA, Metadata

# What one reply may hold: gRPC's limit of 4 MiB less what stands around the content (bytes).
REPLY_LIMIT = 4 * 1024 * 1024 - 16 * 1024
# A batch's reply is full from here on.
BATCH_BUDGET = 3 * 1024 * 1024
# What an entry costs beside its bytes: an upper estimate of names, hashes and times.
_CONTENT_COST = 1_000
_ATTACHMENT_COST = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much of a content is to be read: a view, and whether the raw source too."""

    view: str = FULL
    raw: bool = False

    @property
    def body(self) -> bool:
        """Whether every body is needed."""
        return self.view != METADATA

    @property
    def data(self) -> bool:
        """Whether the attachments' bytes are needed."""
        return self.view == FULL


@dataclass(frozen=True, slots=True)
class Stored:
    """A content as it was found; blobs by hash, where they were asked for."""

    metadata: Metadata
    body: Packed | None
    defects: tuple[str, ...] = ()
    blobs: Mapping[str, tuple[Packed, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """A content as it is read; `data` by the attachment's position."""

    metadata: Metadata
    text: str = ""
    html: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    data: Mapping[int, bytes] = field(default_factory=dict)
    raw: bytes = b""
    defects: tuple[str, ...] = ()


def too_large(storage_key: str) -> ResourceExhausted:
    """The answer to a read that no reply could hold."""
    return ResourceExhausted(
        "The content is larger than one reply: ask for less of it, or use DownloadAttachment and DownloadRaw.",
        reason="TOO_LARGE", metadata={"storage_key": storage_key},
    )  # fmt: skip


def weight(metadata: Metadata, wanted: Wanted) -> int:
    """About how many bytes of a reply the content takes."""
    total = _CONTENT_COST + _ATTACHMENT_COST * len(metadata.attachments)
    if wanted.body:
        total += metadata.raw_size
    if wanted.data and not metadata.raw_source:
        total += sum(a.size for a in metadata.attachments)
    if wanted.raw and metadata.raw_source:
        total += metadata.raw_size
    return total


def fitting(found: Sequence[Metadata], wanted: Wanted) -> list[Metadata]:
    """Those of `found` that go into one reply together, in order.

    Raises ResourceExhausted (TOO_LARGE) where not even one does, so that asking again for the rest always ends.
    """
    chosen: list[Metadata] = []
    left = BATCH_BUDGET
    for metadata in found:
        cost = weight(metadata, wanted)
        if cost <= left or (not chosen and cost <= REPLY_LIMIT):
            chosen.append(metadata)
            left -= cost
    if found and not chosen:
        raise too_large(found[0].storage_key)
    return chosen


def opened(stored: Stored, wanted: Wanted) -> Opened:
    """Unpack and, for a raw source, parse what was asked for."""
    metadata = stored.metadata
    if stored.body is None:
        return Opened(metadata, defects=stored.defects)
    body = unpack(stored.body)
    if metadata.raw_source:
        parsed = mail.parse(body) if wanted.body else mail.Parsed()
        data = {i: part.data for i, part in enumerate(parsed.attachments)} if wanted.data else {}
        raw = body if wanted.raw else b""
        return Opened(metadata, parsed.text, parsed.html, parsed.headers, data, raw, stored.defects)
    composed = from_canonical(body)
    data = {a.position: joined(stored.blobs[a.sha256]) for a in metadata.attachments} if wanted.data else {}
    return Opened(metadata, composed.text, composed.html, composed.headers, data)


def derived(stored: Stored, position: int) -> bytes:
    """The decoded bytes of one attachment of a raw source."""
    if stored.body is None:
        raise ValueError("the body was not read")
    parts = mail.parse(unpack(stored.body)).attachments
    return parts[position].data if position < len(parts) else b""
