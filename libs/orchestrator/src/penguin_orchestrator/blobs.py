"""Streams large attachments to and from Content, and keeps files there that no row refers to."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError, item_failure

CHUNK = 512 * 1024
DEADLINE_S = 120.0
# How long an upload waits for the content that refers to it.
UPLOAD_KEPT = timedelta(minutes=15)
# How often an upload is begun anew before it is given up.
UPLOADS = 3


@dataclass(frozen=True)
class File:
    """What is kept under a key of its own."""

    name: str
    mime_type: str
    data: bytes


async def put_file(
    content: Tier, tenant_id: UUID, key: str, request_id: str, file: File, kept: timedelta, *, as_platform: bool = False
) -> None:
    """Store a file of people under the key, unclaimed for so long: Content removes it then, as nobody's row refers to it. Raises
    TierError. `as_platform`: also for a tenant that is closed."""
    now = datetime.now(UTC)
    # Reconcile judges a generation once all of it is claimed or overdue: this is of the one that ends with its time.
    generation = keys.generation((now + kept).timestamp())
    request = pb.BatchPutContentsRequest(tenant_id=str(tenant_id), generation=generation)
    request.claim_by.FromDatetime(now + UPLOAD_KEPT)
    sha256 = await upload(content, tenant_id, file.data, request.claim_by, as_platform=as_platform)
    request.claim_by.FromDatetime(now + kept)
    attachment = pb.NewAttachment(
        filename=file.name, mime_type=file.mime_type, disposition=pb.DISPOSITION_ATTACHMENT, blob_sha256=sha256
    )
    request.contents.append(
        pb.NewContent(
            request_id=request_id, storage_key=key, composed=pb.ComposedBody(), attachments=[attachment],
            lists_people=True,
        )
    )  # fmt: skip
    method = content.stub(ContentServiceStub).BatchPutContents
    (result,) = (await content.call(method, request, as_platform=as_platform)).results
    if result.WhichOneof("outcome") == "error":
        raise item_failure(content.name, result.error)


async def drop_file(content: Tier, tenant_id: UUID, key: str, *, as_platform: bool = False) -> None:
    """Remove a file that nobody needs any more; raises TierError. `as_platform`: also for a tenant that is closed."""
    request = pb.DeleteContentsRequest(
        tenant_id=str(tenant_id), request_id=str(uuid4()), storage_keys=[key], unclaimed_only=True
    )
    method = content.stub(ContentServiceStub).DeleteContents
    await content.insist(method, request, deadline_s=DEADLINE_S, as_platform=as_platform)


async def upload(content: Tier, tenant_id: UUID, data: bytes, claim_by: Timestamp, *, as_platform: bool = False) -> str:
    """Store bytes as a blob, to be referred to by its SHA-256 until claim_by; uploading twice is uploading once."""
    sha256 = hashlib.sha256(data).hexdigest()

    async def parts() -> AsyncIterator[pb.UploadBlobRequest]:
        start = pb.UploadBlobStart(
            tenant_id=str(tenant_id), request_id=str(uuid4()), sha256=sha256, size=len(data), claim_by=claim_by
        )
        yield pb.UploadBlobRequest(start=start)
        for offset in range(0, len(data), CHUNK):
            yield pb.UploadBlobRequest(chunk=data[offset : offset + CHUNK])

    method = content.stub(ContentServiceStub).UploadBlob
    for attempt in range(1, UPLOADS + 1):
        try:
            await content.send_stream(method, parts(), None if as_platform else tenant_id, timeout=DEADLINE_S)
            break
        except TierError as error:
            if not error.retryable or attempt == UPLOADS:
                raise
            await asyncio.sleep(max(error.retry_after_s or 0.0, 0.1 * attempt * random.uniform(0.5, 1.0)))
    return sha256


async def download_raw(content: Tier, tenant_id: UUID, storage_key: str) -> bytes:
    """The whole raw source of an imported message; raises TierError."""
    request = pb.DownloadRawRequest(tenant_id=str(tenant_id), storage_key=storage_key)
    method = content.stub(ContentServiceStub).DownloadRaw
    return await _whole(content, method, request, lambda reply: reply.metadata.raw_size)


async def download_attachment(content: Tier, tenant_id: UUID, storage_key: str, position: int) -> bytes:
    """One attachment's decoded bytes; raises TierError."""
    return b"".join([chunk async for chunk in attachment_chunks(content, tenant_id, storage_key, position)])


def attachment_chunks(content: Tier, tenant_id: UUID, storage_key: str, position: int) -> AsyncGenerator[bytes, None]:
    """One attachment's decoded bytes as they come, for who takes longer over them than a stream lives; raises TierError."""
    request = pb.DownloadAttachmentRequest(tenant_id=str(tenant_id), storage_key=storage_key, position=position)
    method = content.stub(ContentServiceStub).DownloadAttachment
    return _chunks(content, method, request, lambda reply: reply.attachment.size)


async def _whole(content: Tier, method: Any, request: Any, size_of: Callable[[Any], int]) -> bytes:
    return b"".join([chunk async for chunk in _chunks(content, method, request, size_of)])


async def _chunks(
    content: Tier, method: Any, request: Any, size_of: Callable[[Any], int]
) -> AsyncGenerator[bytes, None]:
    """All bytes of a download. A stream that ends before its size is told (its lifetime or its deadline was over) is taken up
    again where it ended."""
    size, came = None, 0
    while True:
        begun = request.offset = came
        try:
            async for reply in content.stream(method, request, timeout=DEADLINE_S):
                size = size_of(reply) if size is None else size
                came += len(reply.chunk)
                yield reply.chunk
        except TierError as error:
            if not error.retryable or came == begun:
                raise
            continue
        if size is None or came >= size:
            return
        if came == begun:
            raise TierError(content.name, grpc.StatusCode.DATA_LOSS, "", f"{came} of {size} bytes came.")
