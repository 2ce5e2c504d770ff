"""Streams large attachments to and from Content."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
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
    request = pb.DownloadAttachmentRequest(tenant_id=str(tenant_id), storage_key=storage_key, position=position)
    method = content.stub(ContentServiceStub).DownloadAttachment
    return await _whole(content, method, request, lambda reply: reply.attachment.size)


async def _whole(content: Tier, method: Any, request: Any, size_of: Callable[[Any], int]) -> bytes:
    """All bytes of a download. A stream that ends before its size is told (its lifetime was over) is taken up again."""
    data = bytearray()
    while True:
        size, begun = None, len(data)
        request.offset = begun
        async for reply in content.stream(method, request, timeout=DEADLINE_S):
            size = size_of(reply) if size is None else size
            data += reply.chunk
        if size is None or len(data) >= size:
            return bytes(data)
        if len(data) == begun:
            raise TierError(content.name, grpc.StatusCode.DATA_LOSS, "", f"{begun} of {size} bytes came.")
