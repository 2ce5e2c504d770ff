"""Lists of people (imported files, reports of what was left out): erased with whoever stands in them, and only then."""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid4

import pytest
from services.content.tests.rows import attached, new_content, put_one
from services.content.tests.rpc.test_streams import upload

from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis.pool import Database
from penguin_testkit.calling import TierClient
from penguin_testkit.holds import put_hold, subject

ADA = "ada@example.com"
MEBI = 1 << 20


async def erase(content: TierClient, tenant: UUID, *keys: str) -> tuple[dict[str, int], list[str]]:
    """Erase ADA from these lists; what went, and the keys that are told of."""
    counts: dict[str, int] = {}
    told: list[str] = []
    request = tier_pb.EraseSubjectRequest(
        tenant_id=str(tenant), erasure_id=str(uuid4()), subject=subject(ADA), address=ADA, chain_head="0" * 64,
        list_keys=keys,
    )  # fmt: skip
    while True:
        request.request_id = str(uuid4())
        reply = await content.call(TierServiceStub(content.channel).EraseSubject, request)
        for table, count in reply.receipt.counts.items():
            counts[table] = counts.get(table, 0) + count
        told += [mention.key for mention in reply.mentions]
        request.cursor = reply.cursor
        if not reply.cursor:
            return counts, told


async def left(db: Database, tenant: UUID) -> tuple[set[str], int]:
    """Keys, and how many blobs."""
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT storage_key FROM content_objects WHERE tenant_id = $1", tenant)
        blobs = await connection.fetchval("SELECT count(*) FROM blobs WHERE tenant_id = $1", tenant)
    return {row["storage_key"] for row in rows}, blobs


@pytest.mark.parametrize("code", ["utf-8", "utf-16-le"])
async def test_a_list_goes_with_whom_it_names(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, db: Database, code: str
) -> None:
    files = ["email\nADA@example.com\n", "email\nbob@example.com\n", "email\n"]
    keys = [
        (await put_one(content, stub, tenant, new_content(attachments=[attached(text.encode(code))]))).storage_key
        for text in files
    ]
    assert await erase(content, tenant, *keys, "k/none") == ({"content_objects": 1}, [])
    assert await left(db, tenant) == (set(keys[1:]), 2)


# Somebody else's, and hers at the end of the file.
@pytest.mark.parametrize(("text", "hers"), [("jo{0}", False), ("{0}.au", False), ("{0}", True)])
@pytest.mark.parametrize("before", [0, MEBI - 20, MEBI - 15, MEBI - 7, MEBI])
async def test_a_list_that_names_only_somebody_like_them_stays(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, db: Database, text: str, hers: bool, before: int
) -> None:
    data = b"x" * before + b"\n" + text.format(ADA).encode()
    await upload(content, stub, tenant, data)
    item = new_content(attachments=[attached(sha=hashlib.sha256(data).hexdigest())])
    key = (await put_one(content, stub, tenant, item)).storage_key
    counts, mentioned = await erase(content, tenant)
    assert (counts, bool(mentioned)) == ({}, hers)
    assert await erase(content, tenant, key) == ({"content_objects": 1} if hers else {}, [])
    assert (await left(db, tenant))[0] == (set() if hers else {key})


async def test_an_address_across_two_pieces_of_a_large_file_is_seen(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, db: Database
) -> None:
    data = b"x" * (MEBI - 5) + b"\n" + ADA.encode() + b"\n" + b"y" * MEBI
    await upload(content, stub, tenant, data)
    item = new_content(attachments=[attached(sha=hashlib.sha256(data).hexdigest())])
    key = (await put_one(content, stub, tenant, item)).storage_key
    assert await erase(content, tenant, key) == ({"content_objects": 1}, [])
    assert await left(db, tenant) == (set(), 0)


async def test_what_was_stored_as_a_list_is_found_without_its_key(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, db: Database
) -> None:
    files = [f"jo{ADA}\n", f"{ADA}\n", f"<{ADA}>", "bob@example.com"]
    keys = [
        (await put_one(content, stub, tenant, new_content(attachments=[attached(text.encode())], lists_people=True)))
        .storage_key
        for text in files
    ]  # fmt: skip
    other = (await put_one(content, stub, tenant, new_content(attachments=[attached(files[1].encode())]))).storage_key
    await put_hold(content, tenant, storage_key=keys[2])
    counts, told = await erase(content, tenant)
    # What is no list is told of, and what is held, and their bytes.
    shown = {hashlib.sha256(text.encode()).hexdigest() for text in files[1:3]}
    assert (counts, set(told)) == ({"content_objects": 1}, {keys[2], *shown})
    assert (await left(db, tenant))[0] == {keys[0], *keys[2:], other}


async def test_a_list_that_is_held_is_told_of_and_stays(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, db: Database
) -> None:
    key = (await put_one(content, stub, tenant, new_content(attachments=[attached(ADA.encode())]))).storage_key
    await put_hold(content, tenant, storage_key=key)
    assert await erase(content, tenant, key) == ({}, [key])
    assert await left(db, tenant) == ({key}, 1)


async def test_an_upload_that_nothing_refers_to_goes_too(
    content: TierClient, stub: ContentServiceStub, tenant: UUID, db: Database
) -> None:
    await upload(content, stub, tenant, f"email\n{ADA}\n".encode())
    await upload(content, stub, tenant, b"email\nbob@example.com\n")
    item = new_content(attachments=[attached(f"See {ADA}".encode())])
    key = (await put_one(content, stub, tenant, item)).storage_key
    counts, told = await erase(content, tenant)
    # What others refer to is told of, and left for a decision.
    assert (counts, told) == ({"blobs": 1}, [hashlib.sha256(f"See {ADA}".encode()).hexdigest()])
    assert await left(db, tenant) == ({key}, 2)
