"""Which life of its database a tier serves. A restore brings back what was erased since: until erasures are replayed into
it the tier is not ready, and answers no tenant. Where nobody says that there was one, the database tells: it is another than
it was, or was told less of the ledger of erasures than it had been."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from penguin_chassis.faults import FailedPrecondition, Unavailable
from penguin_chassis.housekeeping import Duty
from penguin_chassis.queries import load

if TYPE_CHECKING:
    from penguin_chassis.pool import Database

log = logging.getLogger(__name__)

sql = load("penguin_chassis.sql", "restoring.sql")

# How long another process may go on in ignorance of a mark (seconds).
REFRESH_S = 2.0
# When who is refused is to ask again: while erasures are being replayed, and where a replay has left a tenant out, which is
# somebody's to decide (seconds).
REPLAYING_S = 5.0
LEFT_OUT_S = 30.0


class Incarnation:
    """The life of the database, as this process last saw it. Asked on every call: one look at a flag."""

    def __init__(self) -> None:
        self.id = ""
        self.restoring = False
        # Tenants of whom an erasure was not replayed: refused still.
        self.unreplayed: frozenset[UUID] = frozenset()
        # Told when `restoring` changes: readiness is reported elsewhere.
        self.changed: Callable[[], Awaitable[None]] | None = None
        self._db: Database | None = None
        self._looking = asyncio.Lock()

    @property
    def known(self) -> bool:
        """Whether the database has been asked. What has none to ask, as a test's server, is taken for known."""
        return bool(self.id) or self._db is None

    def of(self, db: Database) -> None:
        """Name the database that is to be asked."""
        self._db = db

    async def refresh(self, db: Database, _: datetime | None = None) -> None:
        """Heed what is written by now, by whichever process."""
        async with db.maintenance() as connection:
            row = await connection.fetchrow(sql.get)
            if row is not None and row["seen_as"] != row["is_now"]:
                await connection.execute(sql.heed, uuid4(), db.now())
                if row["seen_as"]:
                    log.error("the database is another than it was: it waits for erasures to be replayed")
                row = await connection.fetchrow(sql.get)
        if row is not None:
            was, self.restoring = self.restoring, row["id"] != row["replayed"]
            self.id, self.unreplayed = str(row["id"]), frozenset(row["unreplayed"])
            if was != self.restoring and self.changed is not None:
                await self.changed()

    async def look(self) -> None:
        """Ask the database, once, before the first call is let in. Raises Unavailable while it is away."""
        async with self._looking:
            if not self.known and self._db is not None:
                await self.refresh(self._db)

    def admit(self, tenant_id: UUID | None = None) -> None:
        """Raise Unavailable (RESTORE_NOT_REPLAYED) until erasures are replayed, for a tenant until all of its own are: who is
        refused alone is told so."""
        if self.restoring:
            raise Unavailable(
                "The database was restored, and erasures are not yet replayed into it.",
                reason="RESTORE_NOT_REPLAYED", retry_after_s=REPLAYING_S, metadata={"effect": "none"},
            )  # fmt: skip
        if tenant_id in self.unreplayed:
            raise Unavailable(
                "The database was restored, and an erasure of this tenant's could not be replayed into it.",
                reason="RESTORE_NOT_REPLAYED", retry_after_s=LEFT_OUT_S, metadata={"effect": "none", "waits": "tenant"},
            )  # fmt: skip

    def duty(self) -> Duty:
        """The refresh as a duty."""
        return Duty("refresh_incarnation", REFRESH_S, self.refresh)


async def mark_restored(db: Database, at: datetime) -> UUID:
    """Begin another life: erasures must be replayed into it."""
    new = uuid4()
    async with db.maintenance() as connection:
        await connection.execute(sql.begin, new, at)
    return new


async def mark_as_owner(owner_url: str) -> UUID:
    """The same before any process serves the database, as the owner role. Raises OSError, asyncpg.PostgresError."""
    new = uuid4()
    connection = await asyncpg.connect(owner_url, timeout=5, statement_cache_size=0)
    try:
        await connection.execute(sql.begin, new, datetime.now(UTC))
    finally:
        await connection.close(timeout=5)
    return new


@dataclass(frozen=True)
class Mark:
    """A record of the ledger of erasures: its number, from 1, and its hash (hex). 0 and nothing: none."""

    sequence: int = 0
    head: str = ""


async def note(db: Database, known: int, mark: Mark, at: datetime) -> Mark:
    """Note how far the ledger has come; what is noted already stays if it is further. `known`: the record that every tier was
    told of; one that was not was put back since, and begins another life. Returns what is noted."""
    async with db.maintenance() as connection:
        await connection.execute(sql.note, known, mark.sequence, mark.head, uuid4(), at)
        row = await connection.fetchrow(sql.get)
    return Mark() if row is None else Mark(row["ledger_sequence"], row["ledger_head"])


async def mark_replayed(db: Database, incarnation: UUID, mark: Mark, unreplayed: Sequence[UUID], at: datetime) -> None:
    """Every erasure up to a record of the ledger was replayed into this life, but for those of some tenants. Raises
    FailedPrecondition where it is another by now."""
    async with db.maintenance() as connection:
        done = await connection.execute(sql.replayed, incarnation, at, mark.sequence, mark.head, list(unreplayed))
        if done != "UPDATE 1":
            raise FailedPrecondition("The database was restored again.", field="incarnation")
