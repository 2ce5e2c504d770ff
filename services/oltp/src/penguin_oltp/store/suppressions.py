"""Suppressed addresses."""

from __future__ import annotations

from uuid import UUID

from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.suppressions import Suppression
from penguin_oltp.store import rows
from penguin_oltp.store.subjects import WRITING, erased_among

sql = load("penguin_oltp.store", "suppressions.sql")


class SuppressionStore:
    """Suppressed addresses of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, suppression: Suppression) -> Suppression:
        """Add one; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant)."""

        async def insert(connection: Connection) -> Suppression:
            if await erased_among(connection, step.tenant_id, [suppression.address]):
                raise AlreadyExists("The address is suppressed for good: its person was erased.", field="address")
            await rows.write(connection, sql.insert, rows.columns(suppression))
            return suppression

        return await rows.once(self._db.tenant(step.tenant_id, beside=WRITING), step, Suppression, insert)

    async def get(self, tenant_id: UUID, suppression_id: UUID) -> Suppression:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, suppression_id)
        return rows.read(Suppression, rows.found(record, "suppression", suppression_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int) -> list[Suppression]:
        """Up to `limit` of them after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            return [
                rows.read(Suppression, record) for record in await connection.fetch(sql.list, tenant_id, after, limit)
            ]

    async def delete(self, step: Step, suppression_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED)."""

        async def remove(connection: Connection) -> bool:
            await rows.remove(connection, step, "suppression", suppression_id, etag, hold=sql.hold, delete=sql.delete)
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)
