"""Contents between the wire and the domain. It also sees to it that no reply outgrows a message."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as pb
from penguin_chassis.barrier import Step
from penguin_chassis.errors import item_error
from penguin_chassis.faults import Fault, InvalidArgument, NotFound
from penguin_chassis.mutations import gate_of, item_steps
from penguin_chassis.paging import next_token
from penguin_chassis.wire import number, stamp, when, word
from penguin_content.domain import contents as domain
from penguin_content.domain.composed import Composed
from penguin_content.domain.contents import Attachment, Blob, Metadata, NewContent, blob_of, storable
from penguin_content.domain.reading import BATCH_BUDGET, REPLY_LIMIT, Stored, Wanted, opened, too_large
from penguin_content.domain.words import label
from penguin_content.servicers.offload import PARSED
from penguin_content.store.contents import Asked, Put, Terms
from penguin_content.store.reading import Batch


@dataclass(frozen=True)
class PutBatch:
    """A put, ready for the store."""

    tenant_id: UUID
    items: list[tuple[Step, Asked]]
    blobs: Mapping[str, Blob]
    terms: Terms
    gate: Step | None


def put_load(request: pb.BatchPutContentsRequest) -> int:
    """What there is to do before a put, in bytes to be compressed. A batch counts as what its first item is."""
    raw = bool(request.contents) and request.contents[0].WhichOneof("body") == "raw"
    return request.ByteSize() * (PARSED if raw else 1)


def put(request: pb.BatchPutContentsRequest, at: datetime) -> PutBatch:
    """Hash, parse and compress everything before a transaction is opened; equal bytes once."""
    sent = {hashlib.sha256(each).hexdigest(): each for each in request.blobs}
    asked = [_asked(item, sent) for item in request.contents]
    named = {a.sha256 for c in asked if isinstance(c, NewContent) and not c.raw_source for a in c.attachments}
    blobs = {sha256: blob_of(data, sha256) for sha256, data in sent.items() if sha256 in named}
    steps = item_steps(request, request.contents, at=at)
    terms = Terms(when(request, "claim_by") or at, request.generation, at)
    return PutBatch(
        UUID(request.tenant_id), list(zip(steps, asked, strict=True)), blobs, terms, gate_of(request, at=at)
    )


def _asked(item: pb.NewContent, sent: dict[str, bytes]) -> Asked:
    """An item ready to be stored, its attachments' bytes added to `sent`; or why it cannot be."""
    expire_at = when(item, "expire_at")
    try:
        if item.WhichOneof("body") == "raw":
            if item.attachments:
                raise InvalidArgument("A raw source carries its own attachments.", field="attachments")
            return replace(domain.receive(item.storage_key, expire_at, item.raw), lists_people=item.lists_people)
        headers = tuple((header.name, header.value) for header in item.composed.headers)
        body = Composed(item.composed.text, item.composed.html, headers)
        attachments = [_new_attachment(i, a, sent) for i, a in enumerate(item.attachments)]
        return replace(domain.compose(item.storage_key, expire_at, body, attachments), lists_people=item.lists_people)
    except Fault as fault:
        return fault


def _new_attachment(position: int, item: pb.NewAttachment, sent: dict[str, bytes]) -> Attachment:
    sha256, size = item.blob_sha256, -1
    if item.WhichOneof("source") == "data":
        sha256, size = hashlib.sha256(item.data).hexdigest(), len(item.data)
        sent[sha256] = item.data
    return Attachment(
        position, label(item.filename), label(item.mime_type),
        word(pb.Disposition, item.disposition, "attachment"), label(item.content_id), size, sha256,
    )  # fmt: skip


def put_reply(answers: Sequence[Put]) -> pb.BatchPutContentsResponse:
    """The answers to a put; should they outgrow a message, the lists of attachments are left to a later read."""
    reply = pb.BatchPutContentsResponse(results=map(_put_result, answers))
    if reply.ByteSize() > REPLY_LIMIT:
        for result in reply.results:
            result.content.ClearField("attachments")
    return reply


def _put_result(answer: Put) -> pb.PutContentResult:
    if isinstance(answer, Fault):
        return pb.PutContentResult(error=item_error(answer))
    return pb.PutContentResult(content=metadata(answer))


def metadata(known: Metadata) -> pb.ContentMetadata:
    """What is known of a content."""
    return pb.ContentMetadata(
        storage_key=known.storage_key,
        state=number(pb.ContentState, known.state),
        content_hash=known.content_hash,
        raw_size=known.raw_size,
        stored_size=known.stored_size,
        codec=known.codec,
        created_at=stamp(known.created_at),
        claim_by=stamp(known.claim_by),
        expire_at=stamp(known.expire_at),
        raw_source=known.raw_source,
        generation=known.generation,
        attachments=map(attachment, known.attachments),
        defects=known.defects,
    )


def attachment(known: Attachment, data: bytes = b"") -> pb.Attachment:
    """An attachment, with its bytes where they were asked for."""
    return pb.Attachment(
        position=known.position,
        filename=known.filename,
        mime_type=known.mime_type,
        disposition=number(pb.Disposition, known.disposition),
        content_id=known.content_id,
        size=known.size,
        sha256=known.sha256,
        data=data,
    )


def wanted(request: Any) -> Wanted:
    """How much a read asks for."""
    return Wanted(word(pb.ContentView, request.view, domain.FULL), request.include_raw)


def key(request: Any) -> str:
    """The request's storage key; raises NotFound for one that nothing can be stored under."""
    if not storable(request.storage_key):
        raise NotFound("content", "", field="storage_key")
    return str(request.storage_key)


def load(stored: Stored) -> int:
    """What there is to unpack and parse, in bytes to be compressed."""
    unpacked = stored.metadata.raw_size if stored.body is not None else 0
    unpacked *= PARSED if stored.metadata.raw_source else 1
    return unpacked + (sum(a.size for a in stored.metadata.attachments) if stored.blobs else 0)


def content(stored: Stored, asked: Wanted) -> pb.Content:
    """A content as far as it was asked for."""
    read = opened(stored, asked)
    return pb.Content(
        metadata=metadata(read.metadata),
        text=read.text,
        html=read.html,
        headers=[pb.Header(name=name, value=value) for name, value in read.headers],
        attachments=[attachment(a, read.data.get(a.position, b"")) for a in read.metadata.attachments],
        raw=read.raw,
        defects=read.defects,
    )


def get_reply(stored: Stored, asked: Wanted) -> pb.GetContentResponse:
    """The answer to a read; raises ResourceExhausted (TOO_LARGE)."""
    reply = pb.GetContentResponse(content=content(stored, asked))
    if reply.ByteSize() > REPLY_LIMIT:
        raise too_large(stored.metadata.storage_key)
    return reply


def batch_get_reply(batch: Batch, asked: Wanted) -> pb.BatchGetContentsResponse:
    """The answer to a batch read: what turns out larger than estimated waits for another reply.

    Raises ResourceExhausted (TOO_LARGE) where the first alone outgrows a message.
    """
    reply = pb.BatchGetContentsResponse(missing_keys=batch.missing)
    size = 0
    deferred: list[str] = []
    for stored in batch.found:
        each = content(stored, asked)
        cost = each.ByteSize()
        if size + cost > BATCH_BUDGET and (size or cost > REPLY_LIMIT):
            deferred.append(stored.metadata.storage_key)
            continue
        reply.contents.append(each)
        size += cost
    if deferred and not reply.contents:
        raise too_large(deferred[0])
    reply.deferred_keys.extend([*deferred, *batch.deferred])
    return reply


def place(page_key: list[Any]) -> tuple[datetime, str] | None:
    """Where a page of contents begins; raises ValueError, TypeError."""
    created_at, storage_key = page_key
    at = datetime.fromisoformat(created_at)
    if at.tzinfo is None or not isinstance(storage_key, str) or not storable(storage_key):
        raise ValueError("no place among contents")
    return at, storage_key


def page_reply(request: pb.ListContentsRequest, found: Sequence[Metadata], size: int) -> pb.ListContentsResponse:
    """A page of at most `size` contents, shorter where the message is full before."""
    reply = pb.ListContentsResponse()
    total = 0
    for known in found[:size]:
        each = metadata(known)
        total += each.ByteSize()
        if total > BATCH_BUDGET and reply.contents:
            break
        reply.contents.append(each)
    if len(found) > (shown := len(reply.contents)):
        last = found[shown - 1]
        reply.next_page_token = next_token(request, [last.created_at.isoformat(), last.storage_key])
    return reply


def quarantined_reply(
    request: pb.ListQuarantinedContentsRequest, found: Sequence[tuple[datetime, str]], size: int
) -> pb.ListQuarantinedContentsResponse:
    """A page of contents in quarantine."""
    reply = pb.ListQuarantinedContentsResponse(
        contents=[pb.QuarantinedContent(storage_key=key, quarantined_at=stamp(at)) for at, key in found[:size]]
    )
    if len(found) > size:
        at, key = found[size - 1]
        reply.next_page_token = next_token(request, [at.isoformat(), key])
    return reply
