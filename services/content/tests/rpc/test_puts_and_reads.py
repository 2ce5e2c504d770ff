"""Puts and reads as clients see them."""

from __future__ import annotations

from uuid import UUID, uuid4

import grpc
import pytest
from services.content.tests.rows import (
    RAW_MAIL,
    attached,
    batch_get_request,
    delete_request,
    get_request,
    new_content,
    put_one,
    put_request,
    sha256,
)

from penguin.common.v1 import errors_pb2, mutation_pb2
from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient

MIB = 1024 * 1024


async def test_a_composed_body_reads_back_as_it_was_put(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    item = new_content("Grüße \0 " * 50, attachments=[attached(b"%PDF" * 400)], expire_at={"seconds": 4_000_000_000})
    known = await put_one(content, stub, tenant, item)
    assert (known.storage_key, known.state, known.generation) == (item.storage_key, pb.CONTENT_STATE_UNCLAIMED, 7)
    assert known.codec == "zstd"
    assert known.stored_size < known.raw_size
    assert known.expire_at.seconds == 4_000_000_000
    read = (await content.call(stub.GetContent, get_request(tenant, item.storage_key))).content
    assert (read.text, read.html) == (item.composed.text, item.composed.html)
    assert list(read.headers) == list(item.composed.headers)
    assert read.metadata == known
    assert [a.data for a in read.attachments] == [b"%PDF" * 400]
    assert read.attachments[0].sha256 == sha256(b"%PDF" * 400)


async def test_raw_mail_reads_back_whole_and_in_its_parts(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    known = await put_one(content, stub, tenant, new_content(raw=RAW_MAIL))
    assert known.raw_source
    assert known.content_hash == sha256(RAW_MAIL)
    read = (await content.call(stub.GetContent, get_request(tenant, known.storage_key, raw=True))).content
    assert read.raw == RAW_MAIL
    assert (read.text.strip(), read.html.strip()) == ("Schön", "<p>Hi</p>")
    assert {h.name: h.value for h in read.headers}["Subject"] == "Grüße"
    assert [(a.filename, a.mime_type, a.data) for a in read.attachments] == [("a.pdf", "application/pdf", b"%PDF")]
    assert list(read.defects) == []


async def test_views_give_as_much_as_they_say(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> None:
    known = await put_one(content, stub, tenant, new_content(attachments=[attached(b"x")]))
    head = (
        await content.call(stub.GetContent, get_request(tenant, known.storage_key, pb.CONTENT_VIEW_METADATA))
    ).content
    assert (head.text, head.attachments[0].filename, head.attachments[0].data) == ("", "a.pdf", b"")
    body = (await content.call(stub.GetContent, get_request(tenant, known.storage_key, pb.CONTENT_VIEW_BODY))).content
    assert (body.text, body.attachments[0].data) == ("Hello", b"")


async def test_equal_bytes_are_stored_once_and_never_across_tenants(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, db: Database
) -> None:
    data = uuid4().bytes
    other = uuid4()
    items = [new_content(attachments=[attached(data)]) for _ in range(2)]
    items.append(new_content(attachments=[attached(sha=sha256(data))]))
    reply = await content.call(stub.BatchPutContents, put_request(tenant, *items, blobs=[data, b"unused"]))
    assert [r.content.attachments[0].size for r in reply.results] == [16, 16, 16]
    await put_one(content, stub, other, new_content(attachments=[attached(data)]))
    async with db.maintenance() as connection:
        rows = await connection.fetch("SELECT tenant_id FROM blobs WHERE sha256 = $1", bytes.fromhex(sha256(data)))
        unused = await connection.fetchval("SELECT count(*) FROM blobs WHERE tenant_id = $1", tenant)
    assert {row["tenant_id"] for row in rows} == {tenant, other}
    assert (len(rows), unused) == (2, 1)
    await content.call(stub.DeleteContents, delete_request(tenant, items[0].storage_key, items[1].storage_key))
    read = (await content.call(stub.GetContent, get_request(tenant, items[2].storage_key))).content
    assert read.attachments[0].data == data
    await content.call(stub.DeleteContents, delete_request(tenant, items[2].storage_key))
    async with db.maintenance() as connection:
        rows = await connection.fetch("SELECT tenant_id FROM blobs WHERE sha256 = $1", bytes.fromhex(sha256(data)))
    assert [row["tenant_id"] for row in rows] == [other]


async def test_a_repeat_gets_the_first_answer_and_its_key(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    item = new_content(attachments=[attached(b"x")])
    first = await put_one(content, stub, tenant, item)
    again = pb.NewContent()
    again.CopyFrom(item)
    again.storage_key = f"k/{uuid4()}"
    assert await put_one(content, stub, tenant, again) == first
    reply = await content.call(stub.BatchGetContents, batch_get_request(tenant, again.storage_key))
    assert list(reply.missing_keys) == [again.storage_key]


async def test_bad_items_sink_alone(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> None:
    stored = new_content()
    await put_one(content, stub, tenant, stored)
    reused = pb.NewContent()
    reused.CopyFrom(stored)
    reused.composed.text = "Something else"
    missing = new_content(attachments=[attached(b"x"), attached(sha="0" * 64)])
    same = new_content()
    twin = new_content(storage_key=same.storage_key)
    items = [
        reused, new_content(storage_key=stored.storage_key), missing, new_content(raw=b"x", attachments=[attached()]),
        new_content(composed=pb.ComposedBody(text="x" * 3_700_000)), new_content(storage_key="k\0"), same, twin, new_content(),
    ]  # fmt: skip
    results = (await content.call(stub.BatchPutContents, put_request(tenant, *items))).results
    reason = errors_pb2.ErrorReason.Name
    assert [reason(r.error.reason).removeprefix("ERROR_REASON_") for r in results] == [
        "REQUEST_ID_REUSED", "ALREADY_EXISTS", "BLOB_MISSING", "INVALID_FIELD", "TOO_LARGE", "INVALID_FIELD",
        "UNSPECIFIED", "ALREADY_EXISTS", "UNSPECIFIED",
    ]  # fmt: skip
    assert [r.error.field for r in results[:6]] == [
        "request_id", "storage_key", "attachments[1].blob_sha256", "attachments", "composed", "storage_key",
    ]  # fmt: skip
    missing.attachments[1].CopyFrom(attached(b"y"))
    assert (await put_one(content, stub, tenant, missing)).attachments[1].size == 1


async def test_a_compensated_saga_step_bars_its_batch_and_a_repeat_of_it_is_answered(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    def step(operation: int) -> mutation_pb2.SagaStep:
        return mutation_pb2.SagaStep(saga_id=saga, step="put", operation=operation)  # type: ignore[arg-type]

    saga = str(uuid4())
    request = put_request(tenant, new_content())
    request.saga_step.CopyFrom(step(mutation_pb2.STEP_OPERATION_ACTION))
    first = await content.call(stub.BatchPutContents, request)
    assert await content.call(stub.BatchPutContents, request) == first
    undo = delete_request(tenant, first.results[0].content.storage_key, unclaimed_only=True)
    undo.saga_step.CopyFrom(step(mutation_pb2.STEP_OPERATION_COMPENSATION))
    assert (await content.call(stub.DeleteContents, undo)).deleted == 1
    with pytest.raises(Refused) as refused:
        await content.call(stub.BatchPutContents, request)
    assert refused.value.answer.reason == "SAGA_COMPENSATED"


async def test_bad_fields_are_each_named(content: TierClient, stub: ContentServiceStub, tenant: UUID) -> None:
    request = put_request(tenant, new_content(request_id="x"), pb.NewContent(request_id=str(uuid4()), storage_key="k"))
    request.ClearField("claim_by")
    with pytest.raises(Refused) as refused:
        await content.call(stub.BatchPutContents, request)
    assert refused.value.answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(refused.value.answer.fields) == {"claim_by", "contents[0].request_id", "contents[1].body"}


async def test_what_no_reply_can_hold_is_refused_or_deferred(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    noise = [bytes([i]) * (2 * MIB) for i in range(2)]
    items = [new_content(attachments=[attached(data)]) for data in noise]
    both = new_content(attachments=[attached(sha=sha256(data)) for data in noise])
    keys = [(await put_one(content, stub, tenant, item)).storage_key for item in (*items, both)]
    with pytest.raises(Refused) as refused:
        await content.call(stub.GetContent, get_request(tenant, both.storage_key))
    assert (refused.value.answer.code, refused.value.answer.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE",
    )  # fmt: skip
    assert refused.value.answer.metadata["storage_key"] == both.storage_key
    first = await content.call(stub.BatchGetContents, batch_get_request(tenant, *keys, "k/none"))
    assert [c.metadata.storage_key for c in first.contents] == keys[:1]
    assert first.contents[0].attachments[0].data == noise[0]
    assert (list(first.missing_keys), list(first.deferred_keys)) == (["k/none"], keys[1:])
    second = await content.call(stub.BatchGetContents, batch_get_request(tenant, *first.deferred_keys))
    assert ([c.metadata.storage_key for c in second.contents], list(second.deferred_keys)) == (keys[1:2], keys[2:])
    with pytest.raises(Refused) as refused:
        await content.call(stub.BatchGetContents, batch_get_request(tenant, *second.deferred_keys))
    assert refused.value.answer.reason == "TOO_LARGE"


async def test_no_token_another_tenant_and_unknown_keys(
    content: TierClient, stub: ContentServiceStub, tenant: UUID
) -> None:
    known = await put_one(content, stub, tenant, new_content())
    stranger = uuid4()
    for method, request in (
        (stub.GetContent, get_request(tenant, known.storage_key)),
        (stub.BatchGetContents, batch_get_request(tenant, known.storage_key)),
        (stub.BatchPutContents, put_request(tenant, new_content())),
    ):
        with pytest.raises(Refused) as refused:
            await content.call(method, request, anonymous=True)
        assert refused.value.answer.code is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(Refused) as refused:
            await content.call(method, request, tenant=stranger)
        assert refused.value.answer.reason == "TENANT_MISMATCH"
    for owner, key in ((stranger, known.storage_key), (tenant, "k/none"), (tenant, "k\0")):
        with pytest.raises(Refused) as refused:
            await content.call(stub.GetContent, get_request(owner, key))
        assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
        reply = await content.call(stub.BatchGetContents, batch_get_request(owner, key))
        assert (list(reply.missing_keys), list(reply.contents)) == ([key], [])
