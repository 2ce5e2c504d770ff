"""People's contents: erased by their keys with what only they refer to; and where others mention them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from penguin_chassis.addresses import in_bytes, in_text
from penguin_chassis.jsonbytes import json_bytes
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_chassis.subjects import Mention, Order, Page, Phase, SubjectRecord, held_among
from penguin_content.domain.codec import Packed, unpack
from penguin_content.domain.composed import from_canonical
from penguin_content.domain.mail import parse
from penguin_content.domain.subjects import places
from penguin_content.store import blobs as blob_store
from penguin_content.store.contents import remove
from penguin_content.store.contents import sql as content_sql

sql = load("penguin_content.store", "subjects.sql")

# Contents and blobs looked through in one page: what is in memory at a time.
CONTENTS_A_PAGE = 100
BLOBS_A_PAGE = 16
PIECES_A_PAGE = 8
# Bytes carried from one piece of a large blob to the next: longer than any address, in two bytes a character.
TAIL = 700
# Whatever keeps an upload alive, what was the subject's alone goes.
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


class SubjectStore:
    """Subjects of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def phases(self, order: Order) -> Sequence[Phase]:
        """With keys: these contents, or those of them that name the subject. Without: everything there is, looked through."""
        if order.storage_keys:
            return (Phase("contents", _erase),)
        if order.list_keys:
            return (Phase("lists", _erase_lists),)
        return (
            Phase("own_lists", _erase_own_lists),
            Phase("contents", _look),
            Phase("blobs", _look_at_blobs),
            Phase("pieces", _look_at_pieces),
        )

    async def export(self, tenant_id: Any, address: str, storage_keys: Sequence[str]) -> AsyncIterator[SubjectRecord]:
        """The contents of these keys, one by one."""
        for key in storage_keys:
            async with self._db.tenant(tenant_id) as connection:
                row = await connection.fetchrow(sql.export, tenant_id, key)
            if row is not None:
                yield SubjectRecord("content_objects", key, await asyncio.to_thread(_record, row))


async def _erase(connection: Connection, order: Order, _: str) -> Page:
    return await _erase_contents(connection, order, order.storage_keys)


async def _erase_lists(connection: Connection, order: Order, after: str) -> Page:
    """One list a page: it may have 64 MiB."""
    number = int(after or 0)
    more = str(number + 1) if number + 1 < len(order.list_keys) else None
    (key,) = order.list_keys[number : number + 1] or ("",)
    return replace(await _erase_list(connection, order, key), next=more)


async def _erase_own_lists(connection: Connection, order: Order, after: str) -> Page:
    """Those that were stored as lists of people, whoever knows of them still."""
    key = await connection.fetchval(sql.list_after, order.tenant_id, after)
    return Page() if key is None else replace(await _erase_list(connection, order, key), next=key)


async def _erase_list(connection: Connection, order: Order, key: str) -> Page:
    """A list goes with whoever stands in it. What is held stays."""
    blobs = await connection.fetch(content_sql.blobs_of, order.tenant_id, [key])
    if not any(
        [await _named(connection, order, row["blob_sha256"]) for row in blobs if row["blob_sha256"] is not None]
    ):
        return Page()
    if key in await held_among(connection, order.tenant_id, [key]):
        return Page(mentions=[Mention("content_objects", key, "attachments")])
    return await _erase_contents(connection, order, [key])


async def _named(connection: Connection, order: Order, sha256: bytes) -> bool:
    """Whether the address stands in a blob, looked through piece by piece."""
    tail = b""
    for number in itertools.count():
        row = await connection.fetchrow(blob_store.sql.read_piece, order.tenant_id, sha256, number)
        if row is None:
            break
        data = tail + await asyncio.to_thread(unpack, Packed(row["codec"], row["data"]))
        if await asyncio.to_thread(in_bytes, data, order.address, first=not number, last=False):
            return True
        tail = data[-TAIL:]
    # What stands at its very end; of a small blob that is all of it.
    return in_bytes(tail, order.address, first=len(tail) < TAIL)


async def _erase_contents(connection: Connection, order: Order, keys: Sequence[str]) -> Page:
    tenant_id = order.tenant_id
    rows = await connection.fetch(content_sql.lock, tenant_id, list(keys))
    doomed = [row["storage_key"] for row in rows]
    await remove(connection, tenant_id, doomed, NEVER)
    return Page({"content_objects": len(doomed)} if doomed else {})


async def _look(connection: Connection, order: Order, after: str) -> Page:
    rows = await connection.fetch(sql.page, order.tenant_id, after, CONTENTS_A_PAGE)

    def search() -> list[Mention]:
        found = []
        for row in rows:
            seen = places(Packed(row["codec"], row["body"]), order.address, raw_source=row["raw_source"])
            seen += [n for n in ("defects", "filenames") if in_text(row[n] or "", order.address)]
            found += [Mention("content_objects", row["storage_key"], place) for place in seen]
        return found

    more = rows[-1]["storage_key"] if len(rows) == CONTENTS_A_PAGE else None
    return Page(mentions=await asyncio.to_thread(search), next=more)


async def _look_at_blobs(connection: Connection, order: Order, after: str) -> Page:
    rows = await connection.fetch(sql.blobs, order.tenant_id, bytes.fromhex(after), BLOBS_A_PAGE)

    def search() -> list[bytes]:
        packed = [(row["sha256"], Packed(row["codec"], row["data"])) for row in rows]
        return [sha256 for sha256, data in packed if in_bytes(unpack(data), order.address)]

    more = rows[-1]["sha256"].hex() if len(rows) == BLOBS_A_PAGE else None
    return await _told(connection, order, await asyncio.to_thread(search), more)


async def _told(connection: Connection, order: Order, found: Sequence[bytes], more: str | None) -> Page:
    """Blobs that name the subject, for decision; those that nothing refers to (any more) are removed."""
    if not found:
        return Page(next=more)
    await blob_store.remove_unreferenced(connection, order.tenant_id, found, NEVER)
    rows = await connection.fetch(sql.standing, order.tenant_id, list(found))
    standing = [Mention("blobs", row["sha256"].hex(), "data") for row in rows]
    removed = len(found) - len(standing)
    return Page({"blobs": removed} if removed else {}, standing, more)


async def _look_at_pieces(connection: Connection, order: Order, after: str) -> Page:
    """Goes on one piece before where it ended, so that what stands across two pages is seen."""
    digest, _, number = after.partition("/")
    place = (bytes.fromhex(digest), int(number or -1))
    rows = await connection.fetch(sql.pieces, order.tenant_id, *place, PIECES_A_PAGE)

    def search() -> list[bytes]:
        found: set[bytes] = set()
        blob, tail = b"", b""
        for row in rows:
            data = unpack(Packed(row["codec"], row["data"]))
            carried = tail if row["sha256"] == blob else b""
            if in_bytes(carried + data, order.address, first=row["piece"] == 0, last=row["last"]):
                found.add(row["sha256"])
            blob, tail = row["sha256"], data[-TAIL:]
        return sorted(found)

    more = f"{rows[-2]['sha256'].hex()}/{rows[-2]['piece']}" if len(rows) == PIECES_A_PAGE else None
    return await _told(connection, order, await asyncio.to_thread(search), more)


def _record(row: Any) -> bytes:
    """A content as JSON: what a reader sees of it. Its attachments are named; their bytes are fetched by their hashes."""
    data = unpack(Packed(row["codec"], row["body"]))
    body: Any = parse(data) if row["raw_source"] else from_canonical(data)
    return json_bytes(
        {
            "storage_key": row["key"], "created_at": row["created_at"].isoformat(), "raw_source": row["raw_source"],
            "headers": [list(each) for each in body.headers], "text": body.text, "html": body.html,
            "attachments": row["attachments"],
        }
    )  # fmt: skip
