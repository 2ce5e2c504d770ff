"""Which life of its database a tier serves. A restore brings back what was erased since: until erasures are replayed into
it the tier is not ready, and answers no tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg

from penguin_chassis.faults import FailedPrecondition, Unavailable
from penguin_chassis.housekeeping import Duty
from penguin_chassis.queries import load

if TYPE_CHECKING:
    from penguin_chassis.pool import Database

sql = load("penguin_chassis.sql", "restoring.sql")

# How long another process may go on in ignorance of a mark (seconds).
REFRESH_S = 2.0


class Incarnation:
    """The life of the database, as this process last saw it. Asked on every call: one look at a flag."""

    def __init__(self) -> None:
        self.id = ""
        self.restoring = False
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
        if row is not None:
            was, self.restoring = self.restoring, row["id"] != row["replayed"]
            self.id = str(row["id"])
            if was != self.restoring and self.changed is not None:
                await self.changed()

    async def look(self) -> None:
        """Ask the database, once, before the first call is let in. Raises Unavailable while it is away."""
        async with self._looking:
            if not self.known and self._db is not None:
                await self.refresh(self._db)

    def admit(self) -> None:
        """Raise Unavailable (RESTORE_NOT_REPLAYED) until erasures are replayed."""
        if self.restoring:
            raise Unavailable(
                "The database was restored, and erasures are not yet replayed into it.",
                reason="RESTORE_NOT_REPLAYED", retry_after_s=5.0, metadata={"effect": "none"},
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


async def mark_replayed(db: Database, incarnation: UUID, at: datetime) -> None:
    """Every erasure was replayed into this life. Raises FailedPrecondition where it is another by now."""
    async with db.maintenance() as connection:
        if await connection.execute(sql.replayed, incarnation, at) != "UPDATE 1":
            raise FailedPrecondition("The database was restored again.", field="incarnation")
