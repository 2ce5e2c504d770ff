"""Users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.users import User
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "users.sql")


class UserStore:
    """Users of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, user: User) -> User:
        """Add one; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant)."""

        async def insert(connection: Connection) -> User:
            await rows.write(connection, sql.insert, rows.columns(user))
            return user

        return await rows.once(self._db.tenant(step.tenant_id), step, User, insert)

    async def get(self, tenant_id: UUID, user_id: UUID) -> User:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, user_id)
        return _read(rows.found(record, "user", user_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int) -> list[User]:
        """Up to `limit` of them after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            return [_read(record) for record in await connection.fetch(sql.list, tenant_id, after, limit)]

    async def update(self, step: Step, user_id: UUID, etag: str, changes: Mapping[str, Any]) -> User:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists, FailedPrecondition (REFERENCE_MISSING)."""

        async def write(connection: Connection) -> User:
            record = await connection.fetchrow(sql.hold, step.tenant_id, user_id)
            held = _read(rows.checked(record, "user", user_id, etag))
            user = rows.changed(held, changes, step.at)
            await rows.write(connection, sql.update, rows.columns(user))
            return user

        return await rows.once(self._db.tenant(step.tenant_id), step, User, write)

    async def delete(self, step: Step, user_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED)."""

        async def remove(connection: Connection) -> bool:
            await rows.remove(connection, step, "user", user_id, etag, hold=sql.hold, delete=sql.delete)
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)


def _read(record: rows.Record) -> User:
    return rows.read(User, record, roles=tuple(record["roles"]))
