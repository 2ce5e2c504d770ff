"""Blobs between those who put and those who delete: none is lost that is referred to, none stays that is not."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from penguin_chassis.barrier import Step
from penguin_chassis.faults import NotFound
from penguin_chassis.pool import Database
from penguin_content.domain.composed import Composed
from penguin_content.domain.contents import Attachment, Blob, Metadata, NewContent, blob_of, compose
from penguin_content.domain.reading import Wanted, opened
from penguin_content.servicers.streams import Spool
from penguin_content.store import blobs
from penguin_content.store.blobs import BlobStore
from penguin_content.store.contents import ContentStore, Put, Sparing, Terms
from penguin_content.store.duties import quarantine_overdue, remove_overdue_blobs
from penguin_content.store.reading import ReadingStore

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOON = AT + timedelta(hours=1)
TERMS = Terms(SOON, 1, AT)


def step(tenant: UUID) -> Step:
    key = uuid4()
    return Step(tenant, f"req:{key}", hashlib.sha256(key.bytes).digest(), AT)


def referring(blob: Blob, key: str = "") -> NewContent:
    attachment = Attachment(0, "a.pdf", "application/pdf", "attachment", "", -1, blob.sha256)
    return compose(key or f"k/{uuid4()}", None, Composed("hello", ""), [attachment])


def new_blob(data: bytes = b"") -> Blob:
    data = data or uuid4().bytes
    return blob_of(data, hashlib.sha256(data).hexdigest())


async def put(db: Database, tenant: UUID, content: NewContent, *given: Blob, terms: Terms = TERMS) -> Put:
    store = ContentStore(db)
    (answer,) = await store.put_batch(tenant, [(step(tenant), content)], {b.sha256: b for b in given}, terms, None)
    return answer


async def delete(db: Database, tenant: UUID, *keys: str) -> int:
    return (await ContentStore(db).delete(step(tenant), keys, Sparing())).deleted


async def stands(db: Database, tenant: UUID, blob: Blob) -> bool:
    async with db.tenant(tenant) as connection:
        return bool(await blobs.hold(connection, tenant, [blob.sha256]))


async def readable(db: Database, tenant: UUID, key: str) -> bytes:
    stored = await ReadingStore(db).get(tenant, key, Wanted())
    return opened(stored, Wanted()).data[0]


async def upload(db: Database, tenant: UUID, data: bytes, claim_by: datetime = SOON) -> Blob:
    spool = Spool()
    spool.add(data)
    await BlobStore(db).upload(tenant, spool, claim_by, AT)
    spool.close()
    return new_blob(data)


async def test_a_blob_goes_with_its_last_reference(own_db: Database, tenant: UUID) -> None:
    blob = new_blob()
    contents = [referring(blob) for _ in range(2)]
    for content in contents:
        assert isinstance(await put(own_db, tenant, content, blob), Metadata)
    await delete(own_db, tenant, contents[0].storage_key)
    assert await stands(own_db, tenant, blob)
    await delete(own_db, tenant, contents[1].storage_key)
    assert not await stands(own_db, tenant, blob)


async def test_a_put_that_holds_a_blob_makes_its_remover_wait_and_spare_it(own_db: Database, tenant: UUID) -> None:
    blob = new_blob()
    first, second = referring(blob), referring(blob)
    await put(own_db, tenant, first, blob)
    async with own_db.tenant(tenant) as connection:
        assert await blobs.hold(connection, tenant, [blob.sha256]) == {blob.sha256: 16}
        removal = asyncio.create_task(delete(own_db, tenant, first.storage_key))
        await asyncio.sleep(0.1)
        assert not removal.done()
        await connection.execute(
            "INSERT INTO content_objects SELECT (jsonb_populate_record(c, $3)).* FROM content_objects c"
            " WHERE tenant_id = $1 AND storage_key = $2",
            tenant, first.storage_key, f'{{"storage_key": "{second.storage_key}"}}',
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO attachments SELECT (jsonb_populate_record(a, $3)).* FROM attachments a"
            " WHERE tenant_id = $1 AND storage_key = $2",
            tenant, first.storage_key, f'{{"storage_key": "{second.storage_key}"}}',
        )  # fmt: skip
    assert await removal == 1
    assert await readable(own_db, tenant, second.storage_key) == blob.pieces[0].data


async def test_a_put_meets_a_removal_under_way_and_brings_the_bytes_again(own_db: Database, tenant: UUID) -> None:
    blob = new_blob()
    first, second = referring(blob), referring(blob)
    await put(own_db, tenant, first, blob)
    async with own_db.tenant(tenant) as connection:
        await connection.execute("DELETE FROM content_objects WHERE tenant_id = $1", tenant)
        await blobs.remove_unreferenced(connection, tenant, [bytes.fromhex(blob.sha256)], AT)
        writing = asyncio.create_task(put(own_db, tenant, second, blob))
        await asyncio.sleep(0.1)
        assert not writing.done()
    assert isinstance(await writing, Metadata)
    assert await readable(own_db, tenant, second.storage_key) == blob.pieces[0].data


async def test_puts_and_deletes_of_the_same_bytes_never_lose_them(own_db: Database, tenant: UUID) -> None:
    same = [new_blob() for _ in range(3)]

    async def churn(n: int) -> None:
        for i in range(8):
            blob = same[(n + i) % 3]
            content = referring(blob)
            answer = await put(own_db, tenant, content, blob)
            assert isinstance(answer, Metadata), answer
            assert await readable(own_db, tenant, content.storage_key) == blob.pieces[0].data
            assert await delete(own_db, tenant, content.storage_key) == 1

    await asyncio.gather(*(churn(n) for n in range(6)))
    assert [await stands(own_db, tenant, blob) for blob in same] == [False] * 3


async def test_the_same_upload_twice_at_once_is_stored_once(own_db: Database, tenant: UUID) -> None:
    data = uuid4().bytes
    uploaded = await asyncio.gather(*(upload(own_db, tenant, data) for _ in range(5)))
    assert len({blob.sha256 for blob in uploaded}) == 1
    assert await stands(own_db, tenant, uploaded[0])


async def test_an_upload_stands_until_its_claim_by_and_a_referred_one_longer(own_db: Database, tenant: UUID) -> None:
    unused = await upload(own_db, tenant, uuid4().bytes)
    used = await upload(own_db, tenant, uuid4().bytes)
    content = referring(used)
    await put(own_db, tenant, content)
    await remove_overdue_blobs(own_db, SOON - timedelta(seconds=1))
    assert await stands(own_db, tenant, unused)
    await remove_overdue_blobs(own_db, SOON)
    assert not await stands(own_db, tenant, unused)
    assert await stands(own_db, tenant, used)
    await delete(own_db, tenant, content.storage_key)
    assert not await stands(own_db, tenant, used), "its claim_by is over: it went with its last reference"
    with pytest.raises(NotFound):
        await BlobStore(own_db).piece(tenant, used.sha256, 0)


async def test_an_upload_is_kept_until_the_latest_of_its_claim_bys(own_db: Database, tenant: UUID) -> None:
    data = uuid4().bytes
    await upload(own_db, tenant, data, SOON + timedelta(hours=1))
    blob = await upload(own_db, tenant, data, SOON)
    await remove_overdue_blobs(own_db, SOON)
    assert await stands(own_db, tenant, blob)


async def test_what_nobody_claims_is_quarantined_and_a_late_claim_revives_it(own_db: Database, tenant: UUID) -> None:
    blob = new_blob()
    kept, late, unclaimed = (referring(blob) for _ in range(3))
    for content in (kept, late):
        await put(own_db, tenant, content, blob)
    await put(own_db, tenant, unclaimed, blob, terms=Terms(SOON + timedelta(hours=1), 1, AT))
    store, reading = ContentStore(own_db), ReadingStore(own_db)
    await store.claim(step(tenant), [kept.storage_key])

    async def states() -> list[str]:
        found = [await reading.get(tenant, c.storage_key, Wanted()) for c in (kept, late, unclaimed)]
        return [stored.metadata.state for stored in found]

    await quarantine_overdue(own_db, SOON - timedelta(seconds=1))
    assert await states() == ["claimed", "unclaimed", "unclaimed"]
    await quarantine_overdue(own_db, SOON)
    assert await states() == ["claimed", "quarantined", "unclaimed"]
    assert await readable(own_db, tenant, late.storage_key) == blob.pieces[0].data
    assert (await store.claim(step(tenant), [late.storage_key])).claimed == 1
    await quarantine_overdue(own_db, SOON)
    assert await states() == ["claimed", "claimed", "unclaimed"]
