"""Admin events. Every method runs as the maintenance role: these are the platform's, whichever tenant they concern."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists, NotFound
from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_notifications.domain.admin_events import AdminEvent, EventFilter, NewAdminEvent

sql = load("penguin_notifications.store", "admin_events.sql")


def _event_of(row: Any) -> AdminEvent:
    return AdminEvent(**{**dict(row), "details": json.loads(row["details"])})


class AdminEventStore:
    """Admin events of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def raise_event(self, step: Step, new: NewAdminEvent) -> AdminEvent:
        """Raise an event, or count the unresolved one of the same tenant and key up. Raises AlreadyExists for its id."""
        try:
            async with self._db.maintenance() as connection:
                if (done := await barrier.claim(connection, step, AdminEvent)) is not None:
                    return done.reply
                row = await connection.fetchrow(
                    sql.raise_event, new.tenant_id, new.id, new.event_type, new.severity,
                    new.description, json.dumps(new.details), new.user_id, new.dedupe_key, step.at,
                )  # fmt: skip
                return await barrier.record(connection, step, _event_of(row), AdminEvent)
        except asyncpg.UniqueViolationError:
            raise AlreadyExists("An event with this id exists.", field="id") from None

    async def get(self, event_id: UUID) -> AdminEvent:
        """One event; raises NotFound."""
        async with self._db.maintenance() as connection:
            row = await connection.fetchrow(sql.get, event_id)
        if row is None:
            raise NotFound("admin_event", event_id)
        return _event_of(row)

    async def list_newest(self, wanted: EventFilter, before: tuple[datetime, UUID], limit: int) -> list[AdminEvent]:
        """Up to `limit` events before (created_at, id), newest first."""
        async with self._db.maintenance() as connection:
            rows = await connection.fetch(
                sql.list, *before, wanted.severities, wanted.tenant_id, wanted.unresolved_only, limit
            )
        return [_event_of(row) for row in rows]

    async def resolve(self, step: Step, event_id: UUID, resolved_by: str, resolution: str) -> AdminEvent:
        """Close an event; one that is resolved stays as it is. Raises NotFound."""
        async with self._db.maintenance() as connection:
            if (done := await barrier.claim(connection, step, AdminEvent)) is not None:
                return done.reply
            await connection.execute(sql.resolve, event_id, resolved_by, resolution, step.at)
            row = await connection.fetchrow(sql.get, event_id)
            if row is None:
                raise NotFound("admin_event", event_id)
            return await barrier.record(connection, step, _event_of(row), AdminEvent)
