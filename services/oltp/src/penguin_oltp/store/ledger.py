"""Reads the ledger's tallies for the analytics tier: what has changed, and what a day amounts to. It writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_oltp.domain.ledger import MEASURE_OF_KIND, Cell, ChangedDays, Cursor, Horizon

sql = load("penguin_oltp.store", "ledger.sql")


class LedgerStore:
    """The tallies of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def changed_days(self, tenant_id: UUID, cursor: Cursor, clock: Callable[[], datetime]) -> ChangedDays:
        """The days with tallies changed from the cursor up to the oldest transaction still open.

        A change that is overtaken by a later one between the two readings moves to the next answer; none is lost.
        """
        async with self._db.tenant(tenant_id) as connection:
            at = clock()
            row = await connection.fetchrow(sql.horizon)
            assert row is not None  # noqa: S101 - a function's one row
            horizon = Horizon(at, row["oldest_open"], row["above_ended"])
            if cursor.position > horizon.above_ended:
                # From this database's future: it was restored, and what followed is written anew.
                cursor = Cursor()
            found = await connection.fetch(sql.changed_days, tenant_id, cursor.position, horizon.oldest_open)
        return ChangedDays(tuple(record["day"].isoformat() for record in found), cursor.advance(horizon))

    async def count_day(self, tenant_id: UUID, day: date) -> list[Cell]:
        """The day's cells, each whole; an email counts once per measure, on the day it first happened (UTC)."""
        begins = datetime.combine(day, time(), UTC)
        async with self._db.tenant(tenant_id) as connection:
            found = await connection.fetch(sql.count_day, tenant_id, begins, begins + timedelta(days=1))
        cells: dict[tuple[UUID | None, UUID | None, UUID | None], dict[str, int]] = {}
        for campaign, step, account, kind, count in found:
            cells.setdefault((campaign, step, account), {})[MEASURE_OF_KIND.get(kind, kind)] = count
        return [Cell(*key, measures) for key, measures in cells.items()]
