"""Writes the ledger's transitions: rows moved, and the tallies that follow from the move. Used by every store that moves
emails; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from penguin_chassis.pool import Connection
from penguin_chassis.queries import load
from penguin_oltp.domain.emails import CANCELLED, QUEUED, Email, cancel, marks
from penguin_oltp.store.rows import read

sql = load("penguin_oltp.store", "attempts.sql")
tally_sql = load("penguin_oltp.store", "tallies.sql")


async def lock(connection: Connection, tenant_id: UUID, ids: Sequence[UUID]) -> dict[UUID, Email]:
    """The tenant's emails of these ids, held until the transaction ends."""
    rows = await connection.fetch(sql.lock, tenant_id, sorted(set(ids)))
    return {row["id"]: read(Email, row) for row in rows}


async def move(connection: Connection, tenant_id: UUID, moves: Sequence[tuple[Email, Email]]) -> None:
    """Write each (before, after) whose version went up, and what it adds to and takes from the tallies."""
    changed = [(before, after) for before, after in moves if after.version != before.version]
    if not changed:
        return
    after = [a for _, a in changed]
    await connection.execute(
        sql.move, tenant_id, [e.id for e in after], [e.status for e in after], [e.attempt for e in after],
        [e.version for e in after], [e.sending_at for e in after], [e.sent_at for e in after],
        [e.finished_at for e in after],
    )  # fmt: skip
    added: list[tuple[UUID, str, int, datetime, datetime]] = []
    taken: list[tuple[UUID, str]] = []
    for old, new in changed:
        plus, minus = marks(old, new)
        added += [(new.id, kind, 1, at, at) for kind, at in plus.items()]
        taken += [(new.id, kind) for kind in minus]
    await add_tallies(connection, tenant_id, added)
    if taken:
        await connection.execute(tally_sql.take_back, tenant_id, [t[0] for t in taken], [t[1] for t in taken])


async def take_back(connection: Connection, tenant_id: UUID, ids: Sequence[UUID], at: datetime) -> list[UUID]:
    """Cancel those of these emails that are queued; returns them, in the order of their ids. Those that an attempt may have
    delivered all the same are held instead."""
    queued = [email for email in (await lock(connection, tenant_id, ids)).values() if email.status == QUEUED]
    doubtful = await in_doubt(connection, tenant_id, {email.id: email.attempt + 1 for email in queued if email.attempt})
    moves = [(email, cancel(email, at, doubtful=email.id in doubtful)) for email in queued]
    await move(connection, tenant_id, moves)
    return sorted(after.id for _, after in moves if after.status == CANCELLED)


async def in_doubt(connection: Connection, tenant_id: UUID, before: Mapping[UUID, int]) -> set[UUID]:
    """Those of these emails of which an attempt before that number has an unknown outcome."""
    if not before:
        return set()
    return {
        row["email_id"] for row in await connection.fetch(sql.in_doubt, tenant_id, list(before), list(before.values()))
    }


async def add_tallies(
    connection: Connection, tenant_id: UUID, tallies: Sequence[tuple[UUID, str, int, datetime, datetime]]
) -> None:
    """Add (email, kind, count, first, last) to the tallies; each (email, kind) at most once."""
    if tallies:
        columns = [list(column) for column in zip(*tallies, strict=True)]
        await connection.execute(tally_sql.add, tenant_id, *columns)
