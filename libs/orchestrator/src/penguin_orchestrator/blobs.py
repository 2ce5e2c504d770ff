"""Streams large attachments to and from Content."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError

CHUNK = 512 * 1024
DEADLINE_S = 120.0
# How often an upload is begun anew before it is given up.
UPLOADS = 3


async def upload(content: Tier, tenant_id: UUID, data: bytes, claim_by: Timestamp) -> str:
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
            await content.send_stream(method, parts(), tenant_id, timeout=DEADLINE_S)
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
