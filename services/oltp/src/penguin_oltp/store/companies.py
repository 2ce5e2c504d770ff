"""Companies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.companies import Company
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "companies.sql")


class CompanyStore:
    """Companies of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, company: Company) -> Company:
        """Add one; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant)."""

        async def insert(connection: Connection) -> Company:
            await rows.write(connection, sql.insert, rows.columns(company))
            return company

        return await rows.once(self._db.tenant(step.tenant_id), step, Company, insert)

    async def get(self, tenant_id: UUID, company_id: UUID) -> Company:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, company_id)
        return rows.read(Company, rows.found(record, "company", company_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int) -> list[Company]:
        """Up to `limit` of them after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            return [rows.read(Company, record) for record in await connection.fetch(sql.list, tenant_id, after, limit)]

    async def update(self, step: Step, company_id: UUID, etag: str, changes: Mapping[str, Any]) -> Company:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists, FailedPrecondition (REFERENCE_MISSING)."""

        async def write(connection: Connection) -> Company:
            record = await connection.fetchrow(sql.hold, step.tenant_id, company_id)
            held = rows.read(Company, rows.checked(record, "company", company_id, etag))
            company = rows.changed(held, changes, step.at)
            await rows.write(connection, sql.update, rows.columns(company))
            return company

        return await rows.once(self._db.tenant(step.tenant_id), step, Company, write)

    async def delete(self, step: Step, company_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED)."""

        async def remove(connection: Connection) -> bool:
            await rows.remove(connection, step, "company", company_id, etag, hold=sql.hold, delete=sql.delete)
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)
