"""Reads contents by their keys, as much of them as is asked for and no more than a reply can hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from penguin_chassis.faults import NotFound
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_content.domain.codec import Packed
from penguin_content.domain.contents import METADATA, Attachment, Metadata
from penguin_content.domain.reading import REPLY_LIMIT, Stored, Wanted, fitting, too_large, weight
from penguin_content.store.blobs import sql as blob_sql

sql = load("penguin_content.store", "reading.sql")

_ATTACHMENTS = TypeAdapter(tuple[Attachment, ...])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD = Wanted(METADATA)
_SOURCE = Wanted(METADATA, raw=True)


@dataclass(frozen=True)
class Batch:
    """What a batch read found, the keys the tenant does not have, and those left for another reply."""

    found: list[Stored]
    missing: list[str]
    deferred: list[str]


class ReadingStore:
    """Contents of one database, read."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, tenant_id: UUID, key: str, wanted: Wanted) -> Stored:
        """One content; raises NotFound, ResourceExhausted (TOO_LARGE)."""
        stored = await self._one(tenant_id, key, wanted)
        if weight(stored.metadata, wanted) > REPLY_LIMIT:
            raise too_large(key)
        if not _blobs_wanted([stored], wanted):
            return stored
        async with self._db.tenant(tenant_id) as connection:
            whole = await _with_blobs(connection, tenant_id, [stored], wanted)
        if not whole:
            raise NotFound("content", key, field="storage_key")
        return whole[0]

    async def source(self, tenant_id: UUID, key: str) -> Stored:
        """One content's metadata, with its raw source where it has one, whatever its size; raises NotFound."""
        return await self._one(tenant_id, key, _SOURCE)

    async def _one(self, tenant_id: UUID, key: str, wanted: Wanted) -> Stored:
        rows = await self._db.one_trip(sql.get, tenant_id, key, wanted.body, wanted.raw)
        if not rows:
            raise NotFound("content", key, field="storage_key")
        return _stored(rows[0], _ATTACHMENTS.validate_json(rows[0]["attachments"] or "[]"))

    async def get_many(self, tenant_id: UUID, keys: Sequence[str], wanted: Wanted) -> Batch:
        """The tenant's contents of these keys, in their order, as far as they go into one reply."""
        keys = list(dict.fromkeys(keys))
        async with self._db.tenant(tenant_id) as connection:
            heads = {s.metadata.storage_key: s for s in await _objects(connection, tenant_id, keys, _HEAD)}
            chosen = fitting([heads[key].metadata for key in keys if key in heads], wanted)
            chosen_keys = [metadata.storage_key for metadata in chosen]
            found = [heads[key] for key in chosen_keys]
            if wanted.body or wanted.raw:
                found = await _objects(connection, tenant_id, chosen_keys, wanted)
                found = await _with_blobs(connection, tenant_id, found, wanted)
        known = {stored.metadata.storage_key: stored for stored in found}
        chosen_set = set(chosen_keys)
        return Batch(
            [known[key] for key in chosen_keys if key in known],
            [key for key in keys if key not in heads or (key in chosen_set and key not in known)],
            [key for key in keys if key in heads and key not in chosen_set],
        )

    async def list_page(
        self, tenant_id: UUID, *, after: tuple[datetime, str] | None, limit: int, state: str
    ) -> list[Metadata]:
        """Up to `limit` contents after a place, oldest first."""
        at, key = after or (_EPOCH, "")
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.page, tenant_id, at, key, state, limit)
            attachments = await _attachments(connection, tenant_id, rows)
        return [_metadata(row, attachments.get(row["storage_key"], ())) for row in rows]

    async def list_quarantined(
        self, tenant_id: UUID, *, after: tuple[datetime, str] | None, limit: int, before: datetime | None
    ) -> list[tuple[datetime, str]]:
        """Up to `limit` contents in quarantine after a place, with the moment they went there, first come first."""
        at, key = after or (_EPOCH, "")
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.quarantined, tenant_id, at, key, before, limit)
        return [(row["quarantined_at"], row["storage_key"]) for row in rows]


async def _objects(connection: Connection, tenant_id: UUID, keys: Sequence[str], wanted: Wanted) -> list[Stored]:
    rows = await connection.fetch(sql.objects, tenant_id, list(keys), wanted.body, wanted.raw)
    attachments = await _attachments(connection, tenant_id, rows)
    found = [(row, attachments.get(row["storage_key"], ())) for row in rows]
    # One whose attachments are gone was deleted between the two statements.
    return [_stored(row, known) for row, known in found if len(known) == row["attachment_count"]]


async def _attachments(
    connection: Connection, tenant_id: UUID, objects: Iterable[Any]
) -> dict[str, tuple[Attachment, ...]]:
    keys = [row["storage_key"] for row in objects if row["attachment_count"]]
    if not keys:
        return {}
    found: dict[str, list[Attachment]] = {}
    for row in await connection.fetch(sql.attachments, tenant_id, keys):
        key, position, filename, mime_type, disposition, content_id, size, sha256 = row
        found.setdefault(key, []).append(
            Attachment(position, filename, mime_type, disposition, content_id, size, sha256.hex())
        )
    return {key: tuple(attachments) for key, attachments in found.items()}


def _blobs_wanted(found: Sequence[Stored], wanted: Wanted) -> set[str]:
    if not wanted.data:
        return set()
    return {a.sha256 for s in found if not s.metadata.raw_source for a in s.metadata.attachments}


async def _with_blobs(connection: Connection, tenant_id: UUID, found: Sequence[Stored], wanted: Wanted) -> list[Stored]:
    """`found` with the bytes of their attachments where these are blobs; without those deleted in the meantime."""
    hashes = _blobs_wanted(found, wanted)
    if not hashes:
        return list(found)
    rows = await connection.fetch(blob_sql.read, tenant_id, sorted(map(bytes.fromhex, hashes)))
    blobs = {row["sha256"].hex(): (Packed(row["codec"], row["data"]),) for row in rows if row["piece_count"] == 1}
    large = [row["sha256"] for row in rows if row["piece_count"] > 1]
    if large:
        for row in await connection.fetch(blob_sql.read_pieces, tenant_id, large):
            sha256 = row["sha256"].hex()
            blobs[sha256] = (*blobs.get(sha256, ()), Packed(row["codec"], row["data"]))
    gone = hashes.difference(blobs)
    return [
        Stored(s.metadata, s.body, s.defects, blobs)
        for s in found
        if s.metadata.raw_source or not any(a.sha256 in gone for a in s.metadata.attachments)
    ]


def _stored(row: Any, attachments: tuple[Attachment, ...]) -> Stored:
    body = Packed(row["codec"], row["body"]) if row["body"] is not None else None
    return Stored(_metadata(row, attachments), body, tuple(row["defects"]))


def _metadata(row: Any, attachments: tuple[Attachment, ...]) -> Metadata:
    return Metadata(
        storage_key=row["storage_key"], state=row["state"], content_hash=row["content_hash"].hex(),
        raw_size=row["raw_size"], stored_size=row["stored_size"], codec=row["codec"], created_at=row["created_at"],
        claim_by=row["claim_by"], expire_at=row["expire_at"], raw_source=row["raw_source"],
        generation=row["generation"], attachments=attachments, defects=tuple(row["defects"]),
    )  # fmt: skip
