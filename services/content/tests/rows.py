"""Requests that Content's tests begin with."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from penguin.content.v1 import content_service_pb2 as pb
from penguin_testkit.calling import Refused, TierClient, answer_of

RAW_MAIL = (
    b"From: ada@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
    b"--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\nSch\xf6n\r\n"
    b"--b\r\nContent-Type: text/html\r\n\r\n<p>Hi</p>\r\n"
    b"--b\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
    b'Content-Disposition: attachment; filename="a.pdf"\r\n\r\nJVBERg==\r\n--b--\r\n'
)


def ahead(seconds: float) -> Timestamp:
    """A moment from now."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return stamp


def sha256(data: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def new_content(text: str = "Hello", **fields: Any) -> pb.NewContent:
    """A right item of a put."""
    body = {"composed": pb.ComposedBody(text=text, html=f"<p>{text}</p>", headers=[pb.Header(name="X-A", value="1")])}
    return pb.NewContent(
        **{"request_id": str(uuid4()), "storage_key": f"k/{uuid4()}"} | ({} if "raw" in fields else body) | fields
    )


def attached(data: bytes = b"", *, sha: str = "", filename: str = "a.pdf") -> pb.NewAttachment:
    """An attachment by its bytes or, where `sha` is given, by its hash."""
    source: dict[str, Any] = {"blob_sha256": sha} if sha else {"data": data}
    return pb.NewAttachment(filename=filename, mime_type="application/pdf", **source)


def put_request(
    tenant: UUID, *contents: pb.NewContent, blobs: Iterable[bytes] = (), claim_s: float = 3600
) -> pb.BatchPutContentsRequest:
    """A batch put."""
    return pb.BatchPutContentsRequest(
        tenant_id=str(tenant), contents=contents, blobs=blobs, claim_by=ahead(claim_s), generation=7
    )


async def put_one(client: TierClient, stub: Any, tenant: UUID, item: pb.NewContent) -> pb.ContentMetadata:
    """Put one content that is to succeed."""
    result: pb.PutContentResult = (await client.call(stub.BatchPutContents, put_request(tenant, item))).results[0]
    assert result.WhichOneof("outcome") == "content", result
    return result.content


def get_request(tenant: UUID, key: str, view: int = 0, *, raw: bool = False) -> pb.GetContentRequest:
    """A read of one content."""
    return pb.GetContentRequest(tenant_id=str(tenant), storage_key=key, view=view, include_raw=raw)  # type: ignore[arg-type]


def batch_get_request(tenant: UUID, *keys: str, view: int = 0) -> pb.BatchGetContentsRequest:
    """A read of many contents."""
    return pb.BatchGetContentsRequest(tenant_id=str(tenant), storage_keys=keys, view=view)  # type: ignore[arg-type]


def claim_request(tenant: UUID, *keys: str) -> pb.ClaimContentsRequest:
    """A claim."""
    return pb.ClaimContentsRequest(tenant_id=str(tenant), request_id=str(uuid4()), storage_keys=keys)


def delete_request(tenant: UUID, *keys: str, unclaimed_only: bool = False) -> pb.DeleteContentsRequest:
    """A delete."""
    return pb.DeleteContentsRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), storage_keys=keys, unclaimed_only=unclaimed_only
    )


def quarantine_request(tenant: UUID, *keys: str) -> pb.QuarantineContentsRequest:
    """A quarantine."""
    return pb.QuarantineContentsRequest(tenant_id=str(tenant), request_id=str(uuid4()), storage_keys=keys)


def upload_start(tenant: UUID, data: bytes, **fields: Any) -> pb.UploadBlobStart:
    """What an upload begins with."""
    start: dict[str, Any] = {"sha256": sha256(data), "size": len(data), "claim_by": ahead(3600)} | fields
    return pb.UploadBlobStart(tenant_id=str(tenant), request_id=str(uuid4()), **start)


async def upload_messages(
    start: pb.UploadBlobStart | None, data: bytes, chunk: int = 1024 * 1024
) -> AsyncIterator[pb.UploadBlobRequest]:
    """An upload's messages."""
    if start is not None:
        yield pb.UploadBlobRequest(start=start)
    for at in range(0, len(data), chunk):
        yield pb.UploadBlobRequest(chunk=data[at : at + chunk])


async def download(client: TierClient, method: Any, request: Any, **how: Any) -> list[Any]:
    """Every message of a server stream; raises Refused."""
    metadata = () if how.get("anonymous") else client.authorization(
        method._method.decode(), how.get("tenant") or request.tenant_id
    )  # fmt: skip
    try:
        return [message async for message in method(request, metadata=metadata, timeout=30)]
    except grpc.aio.AioRpcError as error:
        raise Refused(answer_of(error)) from None
