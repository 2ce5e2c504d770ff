"""People who are mentioned to users: such notifications are removed, and what operators were told of the tenant is emptied.
What they were told of the platform is theirs: where it mentions the person is told, for them to decide on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import UUID

from penguin_chassis import addresses, subjects
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_chassis.subjects import Order, Page, Phase, SubjectRecord
from penguin_notifications.domain.admin_events import PLATFORM

sql = load("penguin_notifications.store", "subjects.sql")


class SubjectStore:
    """Subjects of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def phases(self, order: Order) -> Sequence[Phase]:
        """Both tables, row by row. Whoever raises or resolves an event may write anything into it, and an event's call is the
        platform's, whichever tenant it concerns."""
        look = subjects.mentions("admin_system_events", sql.scan_events)
        return (
            Phase("notifications", subjects.doomed("notifications", sql.scan, sql.remove)),
            Phase("events", subjects.doomed("admin_system_events", sql.scan_events, sql.empty_events)),
            Phase("platform_events", self._of_platform(look)),
            Phase("platform_answers", self._of_platform(subjects.forget_answers)),
        )

    def _of_platform(
        self, phase: Callable[[Connection, Order, str], Awaitable[Page]]
    ) -> Callable[[Connection, Order, str], Awaitable[Page]]:
        """The phase over the platform's own rows, which no tenant's transaction sees. Done a second time it changes nothing."""

        async def run(_: Connection, order: Order, after: str) -> Page:
            async with self._db.maintenance() as connection:
                return await phase(connection, replace(order, tenant_id=PLATFORM), after)

        return run

    async def export(self, tenant_id: UUID, address: str, storage_keys: Sequence[str]) -> AsyncIterator[SubjectRecord]:
        """Notifications that mention the address."""
        async for record in subjects.exported(
            self._db, tenant_id, "notifications", sql.export, addresses.pattern(address)
        ):
            yield record
