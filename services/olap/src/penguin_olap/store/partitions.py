"""Monthly partitions of the fact tables, made ahead of the days that need them."""

from __future__ import annotations

from datetime import date, datetime

from penguin_chassis.housekeeping import locking_shortly
from penguin_chassis.pool import Database
from penguin_chassis.queries import load

sql = load("penguin_olap.store", "partitions.sql")

MONTHS_AHEAD = 3
TABLES = ("campaign_analytics", "sequence_step_analytics", "mailbox_analytics", "billing_analytics")


def months_from(day: date, ahead: int) -> list[date]:
    """The first days of `day`'s month and the `ahead` that follow."""
    count = day.year * 12 + day.month - 1
    return [date((count + i) // 12, (count + i) % 12 + 1, 1) for i in range(ahead + 1)]


async def open_months(db: Database, at: datetime) -> None:
    """See that this month and the next have partitions; a month of a table at a time, so that no lock is held for long."""
    for month in months_from(at.date(), MONTHS_AHEAD):
        for table in TABLES:
            async with locking_shortly(db) as connection:
                await connection.execute(sql.open_month, table, month)
