"""ContentService: every method, by its contract."""

from __future__ import annotations

from typing import Any

from services.content.tests.rows import (
    RAW_MAIL,
    ahead,
    attached,
    batch_get_request,
    claim_request,
    delete_request,
    get_request,
    new_content,
    put_request,
    quarantine_request,
    sha256,
    upload_start,
)
from tests.contract.cases import Batch, Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World, head_of

from penguin.content.v1 import content_service_pb2 as pb

SERVICE = "penguin.content.v1.ContentService"
BLOB = b"blob" * 1000


async def put(world: World, *items: pb.NewContent) -> list[str]:
    """Contents that stand; their keys."""
    reply = await world.call(f"{SERVICE}/BatchPutContents", put_request(world.tenant, *items))
    assert all(result.HasField("content") for result in reply.results), reply
    return [result.content.storage_key for result in reply.results]


async def put_one(world: World, **fields: Any) -> str:
    """A content that stands; its key."""
    (key,) = await put(world, new_content(**fields))
    return key


async def listed(world: World, request: Any) -> list[Any]:
    """The tenant's contents as they stand."""
    reply = await world.call(f"{SERVICE}/ListContents", pb.ListContentsRequest(tenant_id=head_of(request).tenant_id))
    return list(reply.contents)


def unknown_key(request: Any) -> None:
    """Ask for what nobody stored."""
    request.storage_key = "k/nobody"


def unknown_keys(request: Any) -> None:
    """Ask for what nobody stored."""
    del request.storage_keys[:]
    request.storage_keys.append("k/nobody")


def missing(reply: Any) -> None:
    """Nothing was found; the keys are named."""
    assert list(reply.missing_keys) == ["k/nobody"]
    assert not getattr(reply, "contents", [])
    assert not getattr(reply, "claimed", 0)


def all_missing(reply: Any) -> None:
    """Another tenant's keys are keys that nobody has."""
    assert len(reply.missing_keys) == 2
    assert not getattr(reply, "contents", [])
    assert not getattr(reply, "claimed", 0)


async def three_contents(world: World) -> Any:
    return put_request(world.tenant, *(new_content(f"body {n}") for n in range(3)))


def check_put(request: Any, reply: Any) -> None:
    assert [r.content.storage_key for r in reply.results] == [c.storage_key for c in request.contents]
    assert {r.content.state for r in reply.results} == {pb.CONTENT_STATE_UNCLAIMED}


def put_of_nobody_else(reply: Any) -> None:
    assert all(result.HasField("content") for result in reply.results)


def no_blob(items: Any) -> None:
    del items[1].attachments[:]
    items[1].attachments.append(attached(sha="0" * 64))


async def claim_two(world: World) -> Any:
    return claim_request(world.tenant, *await put(world, new_content("a"), new_content("b")))


async def delete_two(world: World) -> Any:
    return delete_request(world.tenant, *await put(world, new_content("a"), new_content("b")))


async def quarantine_two(world: World) -> Any:
    keys = await put(world, new_content("a"), new_content("b"))
    await world.call(f"{SERVICE}/ClaimContents", claim_request(world.tenant, *keys))
    return quarantine_request(world.tenant, *keys)


async def five_in_quarantine(world: World) -> Any:
    keys = await put(world, *(new_content(f"body {n}") for n in range(5)))
    await world.call(f"{SERVICE}/ClaimContents", claim_request(world.tenant, *keys))
    await world.call(f"{SERVICE}/QuarantineContents", quarantine_request(world.tenant, *keys))
    return pb.ListQuarantinedContentsRequest(tenant_id=str(world.tenant), quarantined_before=ahead(60))


async def get_one(world: World) -> Any:
    return get_request(world.tenant, await put_one(world))


async def get_two(world: World) -> Any:
    return batch_get_request(world.tenant, *await put(world, new_content("a"), new_content("b")))


def check_got_two(request: Any, reply: Any) -> None:
    assert {c.metadata.storage_key for c in reply.contents} == set(request.storage_keys)
    assert {c.text for c in reply.contents} == {"a", "b"}


async def list_five(world: World) -> Any:
    keys = await put(world, *(new_content(f"body {n}") for n in range(5)))
    await world.call(f"{SERVICE}/ClaimContents", claim_request(world.tenant, keys[0]))
    return pb.ListContentsRequest(tenant_id=str(world.tenant))


async def upload(world: World) -> Any:
    chunks = [pb.UploadBlobRequest(chunk=BLOB[:1000]), pb.UploadBlobRequest(chunk=BLOB[1000:])]
    return [pb.UploadBlobRequest(start=upload_start(world.tenant, BLOB)), *chunks]


def check_upload(request: Any, reply: Any) -> None:
    assert (reply.sha256, reply.size) == (sha256(BLOB), len(BLOB))


async def blob_known(world: World, request: Any) -> Any:
    """Whether the tenant has the bytes: a put that names them is taken."""
    item = new_content(attachments=[attached(sha=sha256(BLOB))])
    asked = put_request(world.tenant, item)
    (result,) = (await world.call(f"{SERVICE}/BatchPutContents", asked)).results
    await world.call(f"{SERVICE}/DeleteContents", delete_request(world.tenant, item.storage_key))
    return result.WhichOneof("outcome")


def same_bytes(first: Any, second: Any) -> None:
    """Known by its hash: the same bytes again are those that stand."""
    assert (second.sha256, second.size, second.stored_size) == (first.sha256, first.size, first.stored_size)
    assert second.existed


async def download_attachment(world: World) -> Any:
    key = await put_one(world, attachments=[attached(BLOB)])
    return pb.DownloadAttachmentRequest(tenant_id=str(world.tenant), storage_key=key, offset=7)


def check_attachment(request: Any, messages: Any) -> None:
    assert messages[0].attachment.sha256 == sha256(BLOB)
    assert b"".join(message.chunk for message in messages) == BLOB[7:]


async def download_raw(world: World) -> Any:
    return pb.DownloadRawRequest(tenant_id=str(world.tenant), storage_key=await put_one(world, raw=RAW_MAIL), offset=7)


def check_raw(request: Any, messages: Any) -> None:
    assert messages[0].metadata.storage_key == request.storage_key
    assert b"".join(message.chunk for message in messages) == RAW_MAIL[7:]


class TestContentService(ServiceContract):
    service = SERVICE
    tiers = ("content",)
    cases = (
        Case(
            "BatchPutContents",
            three_contents,
            check_put,
            ("contents[1].storage_key", lambda r: r.contents[1].ClearField("storage_key")),
            "it names nothing that could be absent; an attachment's missing blob is its item's BLOB_MISSING",
            stranger=put_of_nobody_else,
            mutation=Mutation(listed, vary=lambda r: setattr(r.contents[0].composed, "text", "other")),
            batch=Batch("contents", no_blob, "BLOB_MISSING"),
        ),
        Case(
            "ClaimContents",
            claim_two,
            lambda request, reply: _claimed(reply),
            ("storage_keys", lambda r: r.ClearField("storage_keys")),
            Within(unknown_keys, missing),
            stranger=all_missing,
            mutation=Mutation(listed, vary=lambda r: r.storage_keys.append("k/more")),
        ),
        Case(
            "DeleteContents",
            delete_two,
            lambda request, reply: _deleted(reply, 2),
            ("storage_keys", lambda r: r.ClearField("storage_keys")),
            Within(unknown_keys, lambda reply: _deleted(reply, 0)),
            stranger=lambda reply: _deleted(reply, 0),
            mutation=Mutation(listed, vary=lambda r: r.storage_keys.append("k/more")),
        ),
        Case(
            "QuarantineContents",
            quarantine_two,
            lambda request, reply: equal((reply.quarantined, list(reply.early_keys)), (2, [])),
            ("storage_keys", lambda r: r.ClearField("storage_keys")),
            Within(unknown_keys, lambda reply: equal(reply.quarantined, 0)),
            stranger=lambda reply: equal(reply.quarantined, 0),
            mutation=Mutation(listed, vary=lambda r: r.storage_keys.append("k/more")),
        ),
        Case(
            "ListQuarantinedContents",
            five_in_quarantine,
            lambda request, reply: equal(len(reply.contents), 5),
            ("page_size", lambda r: setattr(r, "page_size", -1)),
            "a list of nothing is empty",
            stranger=lambda reply: equal(len(reply.contents), 0),
            listing=Listing("contents", 5, lambda r: r.quarantined_before.CopyFrom(ahead(1))),
        ),
        Case(
            "GetContent",
            get_one,
            lambda request, reply: equal(reply.content.metadata.storage_key, request.storage_key),
            ("storage_key", lambda r: r.ClearField("storage_key")),
            unknown_key,
        ),
        Case(
            "BatchGetContents",
            get_two,
            check_got_two,
            ("storage_keys", lambda r: r.ClearField("storage_keys")),
            Within(unknown_keys, missing),
            stranger=all_missing,
        ),
        Case(
            "ListContents",
            list_five,
            lambda request, reply: equal(len(reply.contents), 5),
            ("state", lambda r: setattr(r, "state", 99)),
            "a list of nothing is empty",
            stranger=lambda reply: equal(len(reply.contents), 0),
            listing=Listing("contents", 5, lambda r: setattr(r, "state", pb.CONTENT_STATE_CLAIMED)),
        ),
        Case(
            "UploadBlob",
            upload,
            check_upload,
            ("start.sha256", lambda r: setattr(r[0].start, "sha256", "x")),
            "it names nothing that could be absent",
            stranger=lambda reply: equal(reply.existed, False),
            mutation=Mutation(blob_known, unkeyed="known by its hash, which is checked", repeats=same_bytes),
        ),
        Case(
            "DownloadAttachment",
            download_attachment,
            check_attachment,
            ("offset", lambda r: setattr(r, "offset", -1)),
            unknown_key,
        ),
        Case(
            "DownloadRaw",
            download_raw,
            check_raw,
            ("offset", lambda r: setattr(r, "offset", -1)),
            unknown_key,
        ),
    )


def _claimed(reply: Any) -> None:
    assert (reply.claimed, list(reply.missing_keys)) == (2, [])


def _deleted(reply: Any, count: int) -> None:
    assert (reply.deleted, list(reply.claimed_keys)) == (count, [])
