"""OLTP's stores: one method, one transaction, one fact. Named SQL stands in the .sql files beside."""

from __future__ import annotations

from datetime import datetime, timedelta

from penguin_chassis.housekeeping import Duty, locking_shortly
from penguin_chassis.pool import Database
from penguin_chassis.subjects import sql as subject_sql
from penguin_oltp.store import sagas
from penguin_oltp.store.events import sql
from penguin_oltp.store.reconcile import remove_old

# Repeats of an event are refused for this long.
EVENT_ID_RETENTION = timedelta(days=90)
PARTITIONS_AHEAD = timedelta(days=7)


async def _event_partitions(db: Database, at: datetime) -> None:
    today = at.date()
    async with locking_shortly(db) as connection:
        await connection.execute(
            "SELECT ensure_partitions('email_event_ids', 'day', $1, $2)", today, today + PARTITIONS_AHEAD
        )
    async with locking_shortly(db) as connection:
        await connection.execute(subject_sql.no_new_holds)
        held = await connection.fetchval(sql.oldest_held_id)
        drop = "SELECT drop_partitions('email_event_ids', least($1::date, $2::date))"
        await connection.execute(drop, today - EVENT_ID_RETENTION, held)


DUTIES = (
    Duty("email_event_partitions", 3600.0, _event_partitions),
    Duty("forget_sagas", 3600.0, sagas.forget),
    Duty("remove_reconcile_receipts", 86400.0, remove_old),
)
