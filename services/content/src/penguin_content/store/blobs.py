"""Blobs: equal bytes of one tenant, stored once below the keys. It never looks beyond a tenant, and removes nothing that
is referred to.

Whoever means to refer to a blob first holds it (FOR KEY SHARE); whoever means to remove it first locks it (FOR UPDATE)
and judges in a later statement. So neither can pass the other unseen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from penguin_chassis.faults import NotFound, Unavailable
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_content.domain.codec import NONE, Packed
from penguin_content.domain.contents import Blob

sql = load("penguin_content.store", "blobs.sql")

# Tries at a blob that another transaction inserts or removes at the same moment.
TRIES = 5
# Pieces of a large blob that are sent in one statement (1 MiB each).
PIECES_A_STATEMENT = 4


class Spooled(Protocol):
    """A large blob outside of memory: its facts, and its packed pieces in order."""

    raw_size: int
    stored_size: int
    piece_count: int

    @property
    def sha256(self) -> str:
        """Hash of the whole, lower-case hex."""

    def read(self) -> Iterable[Packed]:
        """The packed pieces, from the first on."""


@dataclass(frozen=True)
class Uploaded:
    """What became of an upload; `existed`: the tenant had these bytes before."""

    stored_size: int
    existed: bool


async def hold(connection: Connection, tenant_id: UUID, hashes: Iterable[str]) -> dict[str, int]:
    """Hold the tenant's blobs of these hashes against removal; their sizes by hash."""
    wanted = sorted({bytes.fromhex(each) for each in hashes})
    if not wanted:
        return {}
    return {row["sha256"].hex(): row["raw_size"] for row in await connection.fetch(sql.hold, tenant_id, wanted)}


async def keep(connection: Connection, tenant_id: UUID, blobs: Mapping[str, Blob], at: datetime) -> None:
    """Store these blobs where the tenant lacks them, and hold them; raises Unavailable where others keep crossing it."""
    missing = dict(blobs)
    for _ in range(TRIES):
        if not missing:
            return
        inserted = await _insert(connection, tenant_id, list(missing.values()), at)
        for sha256 in inserted:
            if len(pieces := missing[sha256].pieces) > 1:
                await _insert_pieces(connection, tenant_id, sha256, pieces)
        missing = {k: v for k, v in missing.items() if k not in inserted}
        held = await hold(connection, tenant_id, missing)
        missing = {k: v for k, v in missing.items() if k not in held}
    if missing:
        raise Unavailable("Two writes crossed; try again.", retry_after_s=0.05)


async def _insert(connection: Connection, tenant_id: UUID, blobs: Sequence[Blob], at: datetime) -> set[str]:
    small = [blob.pieces[0] if len(blob.pieces) == 1 else None for blob in blobs]
    rows = await connection.fetch(
        sql.insert, tenant_id, [bytes.fromhex(b.sha256) for b in blobs], [b.raw_size for b in blobs],
        [b.stored_size for b in blobs], [len(b.pieces) for b in blobs], [p.codec if p else NONE for p in small],
        [p.data if p else None for p in small], None, at,
    )  # fmt: skip
    return {row["sha256"].hex() for row in rows}


async def _insert_pieces(
    connection: Connection, tenant_id: UUID, sha256: str, pieces: Sequence[Packed], first: int = 0
) -> None:
    await connection.execute(
        sql.insert_pieces, tenant_id, bytes.fromhex(sha256), list(range(first, first + len(pieces))),
        [piece.codec for piece in pieces], [piece.data for piece in pieces],
    )  # fmt: skip


async def remove_unreferenced(connection: Connection, tenant_id: UUID, hashes: Sequence[bytes], at: datetime) -> None:
    """Remove those of these blobs that nothing refers to and no upload keeps alive."""
    if hashes:
        await connection.fetch(sql.lock, tenant_id, sorted(hashes))
        await connection.execute(sql.remove_unreferenced, tenant_id, sorted(hashes), at)


class BlobStore:
    """Blobs of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def upload(self, tenant_id: UUID, blob: Spooled, claim_by: datetime, at: datetime) -> Uploaded:
        """Store an upload, or keep the equal bytes the tenant has at least until `claim_by`."""
        digest = bytes.fromhex(blob.sha256)
        async with self._db.tenant(tenant_id) as connection:
            for _ in range(TRIES):
                stored = await connection.fetchval(sql.extend, tenant_id, digest, claim_by)
                if stored is not None:
                    return Uploaded(stored, existed=True)
                if await _insert_upload(connection, tenant_id, blob, claim_by, at):
                    return Uploaded(blob.stored_size, existed=False)
        raise Unavailable("Two writes crossed; try again.", retry_after_s=0.05)

    async def piece(self, tenant_id: UUID, sha256: str, number: int) -> Packed:
        """One piece of a blob; raises NotFound where it is gone."""
        async with self._db.tenant(tenant_id) as connection:
            row = await connection.fetchrow(sql.read_piece, tenant_id, bytes.fromhex(sha256), number)
        if row is None:
            raise NotFound("blob", sha256)
        return Packed(row["codec"], row["data"])


async def _insert_upload(
    connection: Connection, tenant_id: UUID, blob: Spooled, claim_by: datetime, at: datetime
) -> bool:
    """Whether it was stored; false where another transaction just stored the same bytes."""
    whole = next(iter(blob.read())) if blob.piece_count == 1 else None
    rows = await connection.fetch(
        sql.insert, tenant_id, [bytes.fromhex(blob.sha256)], [blob.raw_size], [blob.stored_size], [blob.piece_count],
        [whole.codec if whole else NONE], [whole.data if whole else None], claim_by, at,
    )  # fmt: skip
    if not rows or whole is not None:
        return bool(rows)
    batch: list[Packed] = []
    sent = 0
    for piece in blob.read():
        batch.append(piece)
        if len(batch) == PIECES_A_STATEMENT:
            await _insert_pieces(connection, tenant_id, blob.sha256, batch, sent)
            sent += len(batch)
            batch = []
    if batch:
        await _insert_pieces(connection, tenant_id, blob.sha256, batch, sent)
    return True
