"""Templates, and what is owed to the tier that keeps their bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

from penguin_chassis import outbox
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.templates import Template
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "templates.sql")


class TemplateStore:
    """Templates of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, template: Template) -> Template:
        """Add one, and owe the claim of its content; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant),
        ResourceExhausted (BACKLOG_FULL)."""

        async def insert(connection: Connection) -> Template:
            await rows.write(connection, sql.insert, rows.columns(template))
            await outbox.take_on(self._db, connection, step.tenant_id, [_claim(template)], step.at)
            return template

        return await rows.once(self._db.tenant(step.tenant_id), step, Template, insert)

    async def get(self, tenant_id: UUID, template_id: UUID) -> Template:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, template_id)
        return rows.read(Template, rows.found(record, "template", template_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int) -> list[Template]:
        """Up to `limit` of them after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            return [rows.read(Template, record) for record in await connection.fetch(sql.list, tenant_id, after, limit)]

    async def update(self, step: Step, template_id: UUID, etag: str, changes: Mapping[str, Any]) -> Template:
        """Change one; a new content is owed its claim, the old one its deletion.

        Raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists, ResourceExhausted (BACKLOG_FULL).
        """

        async def write(connection: Connection) -> Template:
            record = await connection.fetchrow(sql.hold, step.tenant_id, template_id)
            held = rows.read(Template, rows.checked(record, "template", template_id, etag))
            template = rows.changed(held, changes, step.at)
            await rows.write(connection, sql.update, rows.columns(template))
            if template.content_storage_key != held.content_storage_key:
                await outbox.take_on(self._db, connection, step.tenant_id, [_claim(template), _delete(held)], step.at)
            return template

        return await rows.once(self._db.tenant(step.tenant_id), step, Template, write)

    async def delete(self, step: Step, template_id: UUID, etag: str) -> None:
        """Remove one, and owe the deletion of its content; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED),
        ResourceExhausted (BACKLOG_FULL)."""

        async def remove(connection: Connection) -> bool:
            gone = await rows.remove(connection, step, "template", template_id, etag, hold=sql.hold, delete=sql.delete)
            if gone is not None:
                await outbox.take_on(
                    self._db, connection, step.tenant_id, [_delete(rows.read(Template, gone))], step.at
                )
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)


def _claim(template: Template) -> outbox.Owed:
    return _owed("claim_contents", template)


def _delete(template: Template) -> outbox.Owed:
    return _owed("delete_contents", template)


def _owed(kind: str, template: Template) -> outbox.Owed:
    """A content that is claimed and deleted soon after is claimed first: the other way round it would be missed."""
    keys = {"storage_keys": [template.content_storage_key]}
    return outbox.Owed(uuid4(), "content", kind, keys, aggregate=f"template:{template.id}")
