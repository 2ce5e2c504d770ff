"""Uploads and downloads as clients see them."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.content.tests.rows import (
    RAW_MAIL,
    attached,
    delete_request,
    download,
    get_request,
    new_content,
    put_one,
    put_request,
    sha256,
    upload_messages,
    upload_start,
)

from penguin.common.v1 import errors_pb2
from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_testkit.calling import Refused, TierClient

MIB = 1024 * 1024


async def upload(content: TierClient, stub: ContentServiceStub, tenant: UUID, data: bytes, **fields: Any) -> Any:
    start = upload_start(tenant, data, **fields)
    return await content.call(stub.UploadBlob, upload_messages(start, data), tenant=tenant, timeout=60)


def attachment_request(tenant: UUID, key: str, position: int = 0, offset: int = 0) -> pb.DownloadAttachmentRequest:
    return pb.DownloadAttachmentRequest(tenant_id=str(tenant), storage_key=key, position=position, offset=offset)


def raw_request(tenant: UUID, key: str, offset: int = 0) -> pb.DownloadRawRequest:
    return pb.DownloadRawRequest(tenant_id=str(tenant), storage_key=key, offset=offset)


def whole(messages: list[Any], offset: int = 0) -> bytes:
    """The chunks put together; each begins where the one before ended."""
    data = b""
    for message in messages:
        assert message.offset == offset + len(data)
        assert len(message.chunk) <= MIB
        data += message.chunk
    return data


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 17])
async def test_an_upload_comes_back_from_any_offset(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, size: int
) -> None:
    data = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    first = await upload(content, stub, tenant, data)
    assert (first.sha256, first.size, first.existed) == (sha256(data), size, False)
    assert first.stored_size <= size
    again = await upload(content, stub, tenant, data)
    assert (again.existed, again.stored_size) == (True, first.stored_size)
    item = new_content(attachments=[attached(b"small"), attached(sha=sha256(data), filename="large.bin")])
    await put_one(content, stub, tenant, item)
    for offset in sorted({0, size // 3, max(0, size - 1), size, min(size, MIB), min(size, MIB + 5)}):
        request = attachment_request(tenant, item.storage_key, 1, offset)
        messages = await download(content, stub.DownloadAttachment, request)
        assert messages[0].attachment.filename == "large.bin"
        assert not any(m.HasField("attachment") for m in messages[1:])
        assert whole(messages, offset) == data[offset:]
    await content.call(stub.DeleteContents, delete_request(tenant, item.storage_key))
    assert (await upload(content, stub, tenant, data)).existed, "an upload stands until its claim_by"


async def test_sixty_four_mebibytes_go_in_and_no_more(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    data = random.Random(64).randbytes(MIB) * 64
    assert (await upload(content, stub, tenant, data)).stored_size <= 64 * MIB
    item = new_content(attachments=[attached(sha=sha256(data))])
    await put_one(content, stub, tenant, item)
    messages = await download(content, stub.DownloadAttachment, attachment_request(tenant, item.storage_key))
    assert sha256(b"".join(m.chunk for m in messages)) == sha256(data)
    with pytest.raises(Refused) as refused:
        await content.call(stub.GetContent, get_request(tenant, item.storage_key))
    assert refused.value.answer.reason == "TOO_LARGE"
    with pytest.raises(Refused) as refused:
        await upload(content, stub, tenant, b"", size=64 * MIB + 1)
    assert refused.value.answer.fields == ["start.size"]


async def test_what_is_not_what_was_announced_is_refused(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    data = b"x" * 100
    for fields, field in (
        ({"sha256": "0" * 64}, "start.sha256"),
        ({"size": 99}, "start.size"),
        ({"size": 101}, "start.size"),
    ):
        with pytest.raises(Refused) as refused:
            await upload(content, stub, tenant, data, **fields)
        assert (refused.value.answer.reason, refused.value.answer.fields) == ("CHECKSUM_MISMATCH", [field])
    with pytest.raises(Refused) as refused:
        await content.call(stub.UploadBlob, upload_messages(None, data), tenant=tenant)
    assert refused.value.answer.fields == ["start"]
    named = put_request(tenant, new_content(attachments=[attached(sha=sha256(data))]))
    (result,) = (await content.call(stub.BatchPutContents, named)).results
    assert result.error.reason == errors_pb2.ERROR_REASON_BLOB_MISSING


async def test_the_parts_and_the_source_of_raw_mail_are_streamed(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    raw = RAW_MAIL + b"x" * 700_000
    key = (await put_one(content, stub, tenant, new_content(raw=raw))).storage_key
    messages = await download(content, stub.DownloadAttachment, attachment_request(tenant, key, offset=1))
    assert (messages[0].attachment.filename, whole(messages, 1)) == ("a.pdf", b"PDF")
    messages = await download(content, stub.DownloadRaw, raw_request(tenant, key, 10))
    assert whole(messages, 10) == raw[10:]
    assert messages[0].metadata.content_hash == sha256(raw)
    assert not any(m.HasField("metadata") for m in messages[1:])


async def test_streams_refuse_what_they_cannot_give(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    key = (await put_one(content, stub, tenant, new_content(attachments=[attached(b"abc")]))).storage_key
    for method, request, code in (
        (stub.DownloadAttachment, attachment_request(tenant, key, 1), grpc.StatusCode.NOT_FOUND),
        (stub.DownloadAttachment, attachment_request(tenant, "k/none"), grpc.StatusCode.NOT_FOUND),
        (stub.DownloadAttachment, attachment_request(tenant, "k\0"), grpc.StatusCode.NOT_FOUND),
        (stub.DownloadAttachment, attachment_request(uuid4(), key), grpc.StatusCode.NOT_FOUND),
        (stub.DownloadAttachment, attachment_request(tenant, key, 0, 4), grpc.StatusCode.INVALID_ARGUMENT),
        (stub.DownloadAttachment, attachment_request(tenant, key, -1), grpc.StatusCode.INVALID_ARGUMENT),
        (stub.DownloadRaw, raw_request(tenant, key), grpc.StatusCode.NOT_FOUND),
        (stub.DownloadRaw, raw_request(uuid4(), key), grpc.StatusCode.NOT_FOUND),
        (stub.DownloadRaw, raw_request(tenant, key, -1), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(Refused) as refused:
            await download(content, method, request)
        assert refused.value.answer.code is code


async def test_streams_know_their_caller(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> None:
    key = (await put_one(content, stub, tenant, new_content(attachments=[attached(b"abc")]))).storage_key
    for method, request in (
        (stub.DownloadAttachment, attachment_request(tenant, key)),
        (stub.DownloadRaw, raw_request(tenant, key)),
    ):
        with pytest.raises(Refused) as refused:
            await download(content, method, request, anonymous=True)
        assert refused.value.answer.code is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(Refused) as refused:
            await download(content, method, request, tenant=uuid4())
        assert refused.value.answer.reason == "TENANT_MISMATCH"
    start = upload_start(tenant, b"abc")
    with pytest.raises(Refused) as refused:
        await content.call(stub.UploadBlob, upload_messages(start, b"abc"), anonymous=True)
    assert refused.value.answer.code is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(Refused) as refused:
        await content.call(stub.UploadBlob, upload_messages(start, b"abc"), tenant=uuid4())
    assert refused.value.answer.reason == "TENANT_MISMATCH"
