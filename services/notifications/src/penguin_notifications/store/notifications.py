"""Notifications of tenants: created in batches, read by their users, taken out of sight."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists, NotFound
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_notifications.domain.notifications import (
    Created,
    CreatedNotification,
    Marked,
    NewNotification,
    Notification,
)

sql = load("penguin_notifications.store", "notifications.sql")

_COLUMNS = ("id", "user_id", "type", "title", "message", "channel", "subject_ref", "expires_at")


def notification_of(row: Any) -> Notification:
    """A row of `notifications` as the domain sees it."""
    return Notification(**dict(row))


class NotificationStore:
    """Notifications of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create_batch(
        self, tenant_id: UUID, items: Sequence[tuple[Step, NewNotification]], *, gate: Step | None, at: datetime
    ) -> list[Created]:
        """Add notifications. Answers in the order of `items`; AlreadyExists for an id that is taken."""

        async def write(fresh: list[tuple[Step, NewNotification]]) -> list[Created]:
            return await _insert(connection, tenant_id, [new for _, new in fresh], at)

        async with self._db.tenant(tenant_id) as connection:
            if gate is not None:
                await barrier.claim(connection, gate, type(None))
            return await barrier.once_each(connection, items, CreatedNotification, write)

    async def get(self, tenant_id: UUID, notification_id: UUID) -> Notification:
        """One notification; raises NotFound, also for a deleted one."""
        async with self._db.tenant(tenant_id) as connection:
            row = await connection.fetchrow(sql.get, tenant_id, notification_id)
        if row is None:
            raise NotFound("notification", notification_id)
        return notification_of(row)

    async def list_newest(
        self,
        tenant_id: UUID,
        user_id: UUID | None,
        *,
        before: tuple[datetime, UUID],
        limit: int,
        unread_only: bool,
        at: datetime,
    ) -> list[Notification]:
        """Up to `limit` of the user's and the whole tenant's before (created_at, id), newest first, not expired."""
        query = sql.list_unread if unread_only else sql.list_all
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(query, tenant_id, user_id, at, *before, limit)
        return [notification_of(row) for row in rows]

    async def count_unread(self, tenant_id: UUID, user_id: UUID | None, at: datetime) -> int:
        """How many of the user's and the whole tenant's are unread and not expired."""
        async with self._db.tenant(tenant_id) as connection:
            unread: int = await connection.fetchval(sql.count_unread, tenant_id, user_id, at)
        return unread

    async def mark_read(self, step: Step, ids: Sequence[UUID]) -> Marked:
        """Mark notifications read; one that is read already stays as it is."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Marked)) is not None:
                return done.reply
            held = {row["id"]: row["is_read"] for row in await connection.fetch(sql.lock, step.tenant_id, list(ids))}
            unread = [each for each, is_read in held.items() if not is_read]
            await connection.execute(sql.mark_read, step.tenant_id, unread, step.at)
            marked = Marked(len(unread), tuple(sorted(set(ids).difference(held))))
            return await barrier.record(connection, step, marked, Marked)

    async def delete(self, step: Step, notification_id: UUID) -> None:
        """Take a notification out of sight; raises NotFound."""
        async with self._db.tenant(step.tenant_id) as connection:
            if await barrier.claim(connection, step, bool) is not None:
                return
            if await connection.fetchval(sql.delete, step.tenant_id, notification_id, step.at) is None:
                raise NotFound("notification", notification_id)
            await barrier.record(connection, step, True, bool)


async def _insert(
    connection: Connection, tenant_id: UUID, news: Sequence[NewNotification], at: datetime
) -> list[Created]:
    values = [[getattr(new, column) for new in news] for column in _COLUMNS]
    free = {row["id"] for row in await connection.fetch(sql.insert, tenant_id, at, *values)}
    answers: list[Created] = []
    for new in news:
        if new.id in free:
            free.remove(new.id)  # an id that stands twice in the batch was written once
            answers.append(CreatedNotification(new.id, at))
        else:
            answers.append(AlreadyExists("A notification with this id exists.", field="id"))
    return answers
