"""Claims, deletes and lists as clients see them."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.content.tests.rows import (
    attached,
    batch_get_request,
    claim_request,
    delete_request,
    get_request,
    new_content,
    put_one,
    put_request,
)

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_testkit.calling import Refused, TierClient


def list_request(tenant: UUID, **fields: Any) -> pb.ListContentsRequest:
    return pb.ListContentsRequest(tenant_id=str(tenant), **fields)


async def put(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> str:
    return (await put_one(content, stub, tenant, new_content())).storage_key


async def state(content: TierClient, stub: ContentServiceStub, tenant: UUID, key: str) -> int:
    reply = await content.call(stub.GetContent, get_request(tenant, key, pb.CONTENT_VIEW_METADATA))
    return int(reply.content.metadata.state)


async def test_a_claim_is_for_good_and_names_what_dangles(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    keys = [await put(content, stub, tenant) for _ in range(2)]
    first = await content.call(stub.ClaimContents, claim_request(tenant, keys[0]))
    assert (first.claimed, list(first.missing_keys)) == (1, [])
    request = claim_request(tenant, *keys, keys[0], "k/none", "k\0")
    for _ in range(2):
        reply = await content.call(stub.ClaimContents, request)
        assert (reply.claimed, list(reply.missing_keys)) == (2, ["k/none", "k\0"])
    assert await state(content, stub, tenant, keys[1]) == pb.CONTENT_STATE_CLAIMED


async def test_a_delete_spares_what_is_claimed_where_it_is_told_to(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    claimed, unclaimed = await put(content, stub, tenant), await put(content, stub, tenant)
    await content.call(stub.ClaimContents, claim_request(tenant, claimed))
    request = delete_request(tenant, claimed, unclaimed, "k/none", "k\0", unclaimed_only=True)
    for _ in range(2):
        reply = await content.call(stub.DeleteContents, request)
        assert (reply.deleted, list(reply.claimed_keys)) == (1, [claimed])
    reply = await content.call(stub.DeleteContents, delete_request(tenant, claimed, unclaimed))
    assert (reply.deleted, list(reply.claimed_keys)) == (1, [])
    read = await content.call(stub.BatchGetContents, batch_get_request(tenant, claimed, unclaimed))
    assert list(read.missing_keys) == [claimed, unclaimed]


async def test_pages_are_whole_oldest_first_and_bound_to_their_query(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    batches = [[new_content(attachments=[attached(b"x")]) for _ in range(n)] for n in (3, 2)]
    for batch in batches:
        await content.call(stub.BatchPutContents, put_request(tenant, *batch))
    seen: list[str] = []
    token = ""
    for _ in range(3):
        page = await content.call(stub.ListContents, list_request(tenant, page_size=2, page_token=token))
        seen += [c.storage_key for c in page.contents]
        assert all(c.attachments[0].filename == "a.pdf" for c in page.contents)
        token = page.next_page_token or token
    assert not page.next_page_token
    assert seen == [key for batch in batches for key in sorted(item.storage_key for item in batch)]
    await content.call(stub.ClaimContents, claim_request(tenant, seen[1]))
    page = await content.call(stub.ListContents, list_request(tenant, state=pb.CONTENT_STATE_CLAIMED))
    assert [c.storage_key for c in page.contents] == seen[1:2]
    with pytest.raises(Refused) as refused:
        await content.call(stub.ListContents, list_request(tenant, page_token=token, state=pb.CONTENT_STATE_CLAIMED))
    assert refused.value.answer.reason == "INVALID_PAGE_TOKEN"


async def test_no_call_outgrows_a_message_however_many_attachments_there_are(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    part = b"--b\r\nContent-Disposition: attachment; filename=" + b"f" * 250 + b"\r\n\r\n"
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * 1_010
    items = [new_content(raw=raw) for _ in range(13)]
    results = (await content.call(stub.BatchPutContents, put_request(tenant, *items), timeout=30)).results
    assert all(result.WhichOneof("outcome") == "content" for result in results)
    seen: list[str] = []
    token = ""
    while token or not seen:
        page = await content.call(stub.ListContents, list_request(tenant, page_token=token))
        seen += [c.storage_key for c in page.contents]
        token = page.next_page_token
    assert seen == sorted(item.storage_key for item in items)
    wanted, read = seen, []
    while wanted:
        reply = await content.call(
            stub.BatchGetContents, batch_get_request(tenant, *wanted, view=pb.CONTENT_VIEW_METADATA)
        )
        read += [c.metadata.storage_key for c in reply.contents]
        assert all(len(c.attachments) == 1_000 for c in reply.contents)
        wanted = list(reply.deferred_keys)
    assert read == seen
    full = await content.call(stub.GetContent, get_request(tenant, seen[0]))
    assert "more than 1000 parts" in full.content.defects


async def test_bad_fields_strangers_and_no_token(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> None:
    key = await put(content, stub, tenant)
    bad = (
        (stub.ClaimContents, claim_request(tenant), {"storage_keys"}),
        (stub.DeleteContents, delete_request(tenant, ""), {"storage_keys[0]"}),
        (stub.ListContents, list_request(tenant, page_size=1_001), {"page_size"}),
    )
    for method, request, fields in bad:
        with pytest.raises(Refused) as refused:
            await content.call(method, request)
        assert (refused.value.answer.reason, set(refused.value.answer.fields)) == ("INVALID_FIELD", fields)
    stranger = uuid4()
    for method, request, foreign in (
        (stub.ClaimContents, claim_request(tenant, key), claim_request(stranger, key)),
        (stub.DeleteContents, delete_request(tenant, key), delete_request(stranger, key)),
        (stub.ListContents, list_request(tenant), list_request(stranger)),
    ):
        with pytest.raises(Refused) as refused:
            await content.call(method, request, anonymous=True)
        assert refused.value.answer.code is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(Refused) as refused:
            await content.call(method, request, tenant=stranger)
        assert refused.value.answer.reason == "TENANT_MISMATCH"
        await content.call(method, foreign)
    assert await state(content, stub, tenant, key) == pb.CONTENT_STATE_UNCLAIMED


async def test_a_request_id_is_of_one_body(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> None:
    keys = [await put(content, stub, tenant) for _ in range(2)]
    for method, request in (
        (stub.ClaimContents, claim_request(tenant, keys[0])),
        (stub.DeleteContents, delete_request(tenant, keys[0])),
    ):
        await content.call(method, request)
        request.storage_keys[0] = keys[1]
        with pytest.raises(Refused) as refused:
            await content.call(method, request)
        assert refused.value.answer.reason == "REQUEST_ID_REUSED"
