"""Tenants. Creating and listing them span tenants, and so are the maintenance role's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.tenants import ACTIVE, CLOSED, Tenant
from penguin_oltp.store import constraints, rows

sql = load("penguin_oltp.store", "tenants.sql")


@dataclass(frozen=True)
class _Closed:
    """A tenant, and whether it was this mutation that changed its status."""

    tenant: Tenant
    here: bool


class TenantStore:
    """Tenants of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, tenant: Tenant) -> Tenant:
        """Add one. The record of it stands outside any tenant: a repeat may carry another minted id.

        As a compensation it removes what its action added; raises FailedPrecondition (STILL_REFERENCED).
        """

        async def insert(connection: Connection) -> Tenant:
            if step.operation == barrier.COMPENSATION:
                if (added := await barrier.undone(connection, step, Tenant)) is not None:
                    with constraints.deleting("tenant"):
                        await connection.execute(sql.remove, added.tenant_id)
                return tenant
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

    async def close(self, step: Step) -> Tenant:
        """Say that it is closed; a closed one stays as it is. As a compensation, say that it is active again where its
        action closed it. Raises NotFound."""

        async def write(connection: Connection) -> _Closed:
            record = await connection.fetchrow(sql.hold, step.tenant_id)
            held = rows.read(Tenant, rows.found(record, "tenant", step.tenant_id))
            status = CLOSED
            if step.operation == barrier.COMPENSATION:
                closed = await barrier.undone(connection, step, _Closed)
                status = ACTIVE if closed is not None and closed.here else held.status
            if held.status == status:
                return _Closed(held, here=False)
            tenant = rows.changed(held, {"status": status}, step.at)
            await rows.write(connection, sql.update, rows.columns(tenant))
            if status == CLOSED:
                await connection.execute(sql.pause_campaigns, step.tenant_id, step.at)
            return _Closed(tenant, here=True)

        return (await rows.once(self._db.tenant(step.tenant_id), step, _Closed, write)).tenant
