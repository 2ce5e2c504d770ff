"""What is removed for good, and when. The only place that deletes rows; bounded each time, across tenants.

While a legal hold on a person stands, nothing of its tenant's is removed: a text does not tell whose it is to who has only the
person's HMAC. Events of the platform are no tenant's, and go by age as ever.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from penguin_chassis import subjects
from penguin_chassis.pool import Database, affected
from penguin_notifications.domain.admin_events import LONGEST_RETENTION, RETENTION
from penguin_notifications.store.admin_events import sql as admin_sql
from penguin_notifications.store.notifications import sql

# A deleted notification can be looked into by operators for this long.
DELETED_RETENTION = timedelta(days=30)
# Rows per transaction, and transactions per round.
LIMIT = 5_000
ROUNDS = 20


async def remove_notifications(db: Database, at: datetime) -> None:
    """Remove notifications that have expired, and those deleted long ago."""
    await _remove(db, sql.remove_expired, at)
    await _remove(db, sql.remove_deleted, at - DELETED_RETENTION)


async def remove_admin_events(db: Database, at: datetime) -> None:
    """Remove resolved events by their severity's retention, and any past the longest."""
    for severity, kept in RETENTION.items():
        await _remove(db, admin_sql.remove_resolved, severity, at - kept)
    await _remove(db, admin_sql.remove_oldest, at - LONGEST_RETENTION)


async def _remove(db: Database, query: str, *args: object) -> None:
    for _ in range(ROUNDS):
        async with db.maintenance() as connection:
            await connection.execute(subjects.sql.no_new_holds)
            removed = await connection.execute(query, *args, LIMIT)
        if affected(removed) < LIMIT:
            return
