"""People who are mentioned to users: such notifications are removed, and what operators were told is emptied."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from penguin_chassis import subjects
from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_chassis.subjects import Order, Phase, SubjectRecord

sql = load("penguin_notifications.store", "subjects.sql")


class SubjectStore:
    """Subjects of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def phases(self, order: Order) -> Sequence[Phase]:
        """Both tables, row by row."""
        return (
            Phase("notifications", subjects.doomed("notifications", sql.scan, sql.remove)),
            Phase("events", subjects.doomed("admin_system_events", sql.scan_events, sql.empty_events)),
        )

    async def export(self, tenant_id: UUID, address: str, storage_keys: Sequence[str]) -> AsyncIterator[SubjectRecord]:
        """Notifications that mention the address."""
        async for record in subjects.exported(self._db, tenant_id, "notifications", sql.export, address):
            yield record
