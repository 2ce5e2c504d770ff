"""Prepares emails for their way: mints ids and keys, cuts batches within the tiers' limits, says which attachments travel
along and which go ahead by stream, and which item of a refused batch was at fault. It calls nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from google.protobuf.message import Message

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as oltp_pb
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.validation import refuse_unstorable, validate
from penguin_orchestrator import keys
from penguin_orchestrator.messages import Attachment, OutgoingEmail, Refusal, StoredAttachment

# A batch sent to Content stays below its message limit (bytes).
BATCH_BYTES = 3 * 1024 * 1024
BATCH_ITEMS = 500
# Attachments above this go by stream, and the batch names them by hash (bytes).
INLINE_BLOB = 512 * 1024
# Distinct attachments that one batch may carry, and the most that can be stored at all (bytes).
BATCH_BLOBS = 100
LARGEST_BLOB = 64 * 1024 * 1024
# What an item takes besides its texts (bytes).
_OVERHEAD = 1024
# Codes of google.rpc.Code.
_INVALID_ARGUMENT = 3
_RESOURCE_EXHAUSTED = 8


@dataclass(frozen=True)
class Prepared:
    """One email with what was minted for it: its content, and its row, as the tiers take them."""

    email: OutgoingEmail
    id: UUID
    request_id: UUID
    key: str
    content: content_pb.NewContent
    row: oltp_pb.NewEmail
    # Its attachments by hash.
    blobs: dict[str, bytes]
    # What its body takes in a batch, attachments not included (bytes).
    size: int

    def renewed(self) -> Prepared:
        """The same email under a key and ids of a new try."""
        identifier, key = keys.new_id(), keys.storage_key()
        content, row = content_pb.NewContent(), oltp_pb.NewEmail()
        content.CopyFrom(self.content)
        row.CopyFrom(self.row)
        content.request_id, content.storage_key = str(keys.new_id()), key
        row.id, row.content_storage_key = str(identifier), key
        return replace(self, id=identifier, key=key, content=content, row=row)


class Preparation:
    """Prepares the emails of one call: each attachment is hashed once, however many emails carry it."""

    def __init__(self) -> None:
        self._hashes: dict[int, str] = {}

    def prepare(self, email: OutgoingEmail, request_id: UUID) -> Prepared | Refusal:
        """The email ready to be sent, or why it cannot be. The contracts' constraints are the tiers' to judge."""
        identifier, key = keys.new_id(), keys.storage_key()
        try:
            blobs = {self._hash(a): a.data for a in email.attachments if isinstance(a, Attachment)}
            content = self._content(email, key)
            row = _row(email, identifier, request_id, key)
            row.content_digest = _digest(content)
        except (ValueError, TypeError, OverflowError):  # the last: a moment that is beyond the calendar in UTC
            return Refusal(_INVALID_ARGUMENT, "INVALID_FIELD", "The email holds a value of a wrong kind.")
        size = content.ByteSize() + _OVERHEAD
        if size > BATCH_BYTES or any(len(data) > LARGEST_BLOB for data in blobs.values()):
            return Refusal(_RESOURCE_EXHAUSTED, "TOO_LARGE", "The email is larger than can be stored.")
        return Prepared(email, identifier, request_id, key, content, row, blobs, size)

    def _hash(self, attachment: Attachment) -> str:
        known = self._hashes.get(id(attachment.data))
        if known is None:
            known = self._hashes[id(attachment.data)] = hashlib.sha256(attachment.data).hexdigest()
        return known

    def _content(self, email: OutgoingEmail, key: str) -> content_pb.NewContent:
        return content_pb.NewContent(
            # An id of this try alone: OLTP decides which try stands, and the loser's content is deleted.
            request_id=str(keys.new_id()),
            storage_key=key,
            composed=content_pb.ComposedBody(
                text=email.text,
                html=email.html,
                headers=[content_pb.Header(name=name, value=value) for name, value in email.headers.items()],
            ),
            attachments=[self._attachment(a) for a in email.attachments],
        )

    def _attachment(self, attachment: Attachment | StoredAttachment) -> content_pb.NewAttachment:
        inline = bool(attachment.content_id)
        return content_pb.NewAttachment(
            filename=attachment.filename,
            mime_type=attachment.mime_type,
            disposition=content_pb.DISPOSITION_INLINE if inline else content_pb.DISPOSITION_ATTACHMENT,
            content_id=attachment.content_id,
            blob_sha256=attachment.sha256 if isinstance(attachment, StoredAttachment) else self._hash(attachment),
        )


def against_contract(prepared: Prepared) -> Refusal | None:
    """Why a tier would refuse this one item, and a whole batch for its sake. To be asked once that has happened."""
    try:
        validate(prepared.content)
        validate(prepared.row)
        for stored_as_text in (prepared.row, *prepared.content.attachments):
            refuse_unstorable(stored_as_text)
    except InvalidArgument as fault:
        return Refusal(_INVALID_ARGUMENT, fault.reason, fault.message, fault.field)
    return None


def batches(prepared: Sequence[Prepared]) -> Iterator[list[Prepared]]:
    """Batches within the tiers' limits, in order. What several emails of a batch share counts once."""
    batch: list[Prepared] = []
    size = 0
    carried: set[str] = set()
    for each in prepared:
        new = {sha256: data for sha256, data in each.blobs.items() if sha256 not in carried and _small(data)}
        grows = each.size + sum(map(len, new.values()))
        full = len(batch) >= BATCH_ITEMS or size + grows > BATCH_BYTES or len(carried) + len(new) > BATCH_BLOBS
        if batch and full:
            yield batch
            batch, size, carried = [], 0, set()
            new = {sha256: data for sha256, data in each.blobs.items() if _small(data)}
            grows = each.size + sum(map(len, new.values()))
        batch.append(each)
        size += grows
        carried |= new.keys()
    if batch:
        yield batch


def split_blobs(batch: Sequence[Prepared]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The batch's distinct attachments by hash: those that travel along, and those to stream ahead of it."""
    along: dict[str, bytes] = {}
    ahead: dict[str, bytes] = {}
    room = BATCH_BYTES - sum(each.size for each in batch)
    for each in batch:
        for sha256, data in each.blobs.items():
            if sha256 in along or sha256 in ahead:
                continue
            if _small(data) and len(data) <= room and len(along) < BATCH_BLOBS:
                along[sha256] = data
                room -= len(data)
            else:
                ahead[sha256] = data
    return along, ahead


def _small(data: bytes) -> bool:
    return len(data) <= INLINE_BLOB


def _digest(content: content_pb.NewContent) -> bytes:
    """What the content says, whichever try it is of."""
    parts = [content.composed, *content.attachments]
    return hashlib.blake2b(b"".join(_framed(part) for part in parts), digest_size=16).digest()


def _framed(part: Message) -> bytes:
    data = part.SerializeToString(deterministic=True)
    return len(data).to_bytes(4, "big") + data


def _row(email: OutgoingEmail, identifier: UUID, request_id: UUID, key: str) -> oltp_pb.NewEmail:
    row = oltp_pb.NewEmail(
        request_id=str(request_id),
        id=str(identifier),
        recipient=email.recipient,
        recipient_name=email.recipient_name,
        sender=email.sender,
        sender_name=email.sender_name,
        subject=email.subject,
        content_storage_key=key,
        campaign_id=str(email.campaign_id or ""),
        step_id=str(email.step_id or ""),
        lead_id=str(email.lead_id or ""),
        email_account_id=str(email.email_account_id or ""),
        priority=oltp_pb.SendPriority.Value(f"SEND_PRIORITY_{email.priority.upper()}"),
    )
    if email.send_at is not None:
        row.send_at.FromDatetime(email.send_at)
    return row
