"""Streams large attachments to and from Content."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_orchestrator.clients import Tier

CHUNK = 512 * 1024
DEADLINE_S = 120.0


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

    await content.send_stream(content.stub(ContentServiceStub).UploadBlob, parts(), tenant_id, timeout=DEADLINE_S)
    return sha256


async def download_raw(content: Tier, tenant_id: UUID, storage_key: str) -> bytes:
    """The whole raw source of an imported message."""
    request = pb.DownloadRawRequest(tenant_id=str(tenant_id), storage_key=storage_key)
    method = content.stub(ContentServiceStub).DownloadRaw
    return b"".join([reply.chunk async for reply in content.stream(method, request, timeout=DEADLINE_S)])


async def download_attachment(content: Tier, tenant_id: UUID, storage_key: str, position: int) -> bytes:
    """One attachment's decoded bytes."""
    request = pb.DownloadAttachmentRequest(tenant_id=str(tenant_id), storage_key=storage_key, position=position)
    method = content.stub(ContentServiceStub).DownloadAttachment
    return b"".join([reply.chunk async for reply in content.stream(method, request, timeout=DEADLINE_S)])
