"""Tenants. Creating and listing them span tenants, and so are the maintenance role's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.tenants import Tenant
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "tenants.sql")


class TenantStore:
    """Tenants of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, tenant: Tenant) -> Tenant:
        """Add one. The record of it stands outside any tenant: a repeat may carry another minted id."""

        async def insert(connection: Connection) -> Tenant:
            await rows.write(connection, sql.insert, rows.columns(tenant))
            return tenant

        return await rows.once(self._db.maintenance(), step, Tenant, insert)

    async def get(self, tenant_id: UUID) -> Tenant:
        """One tenant; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id)
        return rows.read(Tenant, rows.found(record, "tenant", tenant_id))

    async def list_page(self, after: UUID, limit: int) -> list[Tenant]:
        """Up to `limit` tenants after an id."""
        async with self._db.maintenance() as connection:
            return [rows.read(Tenant, record) for record in await connection.fetch(sql.list, after, limit)]

    async def update(self, step: Step, etag: str, changes: Mapping[str, Any]) -> Tenant:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH)."""

        async def write(connection: Connection) -> Tenant:
            record = await connection.fetchrow(sql.hold, step.tenant_id)
            held = rows.read(Tenant, rows.checked(record, "tenant", step.tenant_id, etag))
            tenant = rows.changed(held, changes, step.at)
            await rows.write(connection, sql.update, rows.columns(tenant))
            return tenant

        return await rows.once(self._db.tenant(step.tenant_id), step, Tenant, write)
