"""What is known of the workers as a whole, by all processes of the tier together."""

from __future__ import annotations

from datetime import datetime, timedelta

from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_queue.domain.fleet import Fleet

sql = load("penguin_queue.store", "fleet.sql")


class FleetStore:
    """The fleet as one database has it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def tell(self, heard: int, lost: int, at: datetime, lease: timedelta | None = None) -> Fleet | None:
        """Add leases that were ended by a word and such as ran out, and the shortest that was given; all that is known. It also says that this process is there.
        None, and nothing is added, where another is just telling."""
        async with self._db.maintenance() as connection:
            row = await connection.fetchrow(sql.known)
            if row is None:
                return None
            fleet = Fleet(*row).told(heard, lost, at, lease)
            await connection.execute(
                sql.know, fleet.heard, fleet.lost, fleet.at, fleet.away_since, fleet.away_until,
                fleet.heard_now, fleet.lost_now, fleet.lease, fleet.heard_at,
            )  # fmt: skip
        return fleet

    async def look(self, at: datetime) -> Fleet:
        """All that is known, as of `at`, even where another is just telling; nothing is added."""
        async with self._db.maintenance() as connection:
            (row,) = await connection.fetch(sql.look)
        return Fleet(*row).told(0, 0, at)
