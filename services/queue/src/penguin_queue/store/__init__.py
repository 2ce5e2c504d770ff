"""Queue's stores: one method, one transaction, one fact. Named SQL stands in the .sql files beside."""

from __future__ import annotations

from datetime import datetime, timedelta

from penguin_chassis.housekeeping import Duty
from penguin_chassis.pool import Database

COMPLETED_RETENTION = timedelta(days=7)
DEAD_RETENTION = timedelta(days=365)
DAYS_AHEAD = timedelta(days=7)
MONTHS_AHEAD = timedelta(days=62)


async def keep_partitions(db: Database, at: datetime) -> None:
    """Make the partitions of the days to come, drop those whose time is over."""
    today = at.date()
    async with db.maintenance() as connection:
        # From tomorrow on: if today's is missing, its rows are in the default partition already, and stay there.
        tomorrow = today + timedelta(days=1)
        await connection.execute(
            "SELECT ensure_partitions('completed_jobs', 'day', $1, $2)", tomorrow, today + DAYS_AHEAD
        )
        next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        await connection.execute(
            "SELECT ensure_partitions('dead_jobs', 'month', $1, $2)", next_month, today + MONTHS_AHEAD
        )
    async with db.maintenance() as connection:
        for table, retention in (("completed_jobs", COMPLETED_RETENTION), ("dead_jobs", DEAD_RETENTION)):
            await connection.execute("SELECT drop_partitions($1::text::regclass, $2)", table, today - retention)
    async with db.maintenance() as connection:
        # What is this old now can only be in a default partition, or in a month that is not over yet.
        await connection.execute("DELETE FROM completed_jobs WHERE finished_at < $1", at - COMPLETED_RETENTION)
        await connection.execute("DELETE FROM dead_jobs WHERE finished_at < $1", at - DEAD_RETENTION)


DUTIES = (Duty("job_partitions", 3600.0, keep_partitions),)
