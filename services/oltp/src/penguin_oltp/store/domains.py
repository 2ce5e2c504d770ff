"""Sending domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.domains import DnsRecord, Domain
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "domains.sql")


class DomainStore:
    """Sending domains of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, domain: Domain) -> Domain:
        """Add one; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant)."""

        async def insert(connection: Connection) -> Domain:
            await rows.write(connection, sql.insert, _columns(domain))
            return domain

        return await rows.once(self._db.tenant(step.tenant_id), step, Domain, insert)

    async def get(self, tenant_id: UUID, domain_id: UUID) -> Domain:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, domain_id)
        return _read(rows.found(record, "domain", domain_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int) -> list[Domain]:
        """Up to `limit` of them after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            return [_read(record) for record in await connection.fetch(sql.list, tenant_id, after, limit)]

    async def update(self, step: Step, domain_id: UUID, etag: str, changes: Mapping[str, Any]) -> Domain:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists, FailedPrecondition (REFERENCE_MISSING)."""

        async def write(connection: Connection) -> Domain:
            record = await connection.fetchrow(sql.hold, step.tenant_id, domain_id)
            held = _read(rows.checked(record, "domain", domain_id, etag))
            domain = rows.changed(held, changes, step.at)
            await rows.write(connection, sql.update, _columns(domain))
            return domain

        return await rows.once(self._db.tenant(step.tenant_id), step, Domain, write)

    async def delete(self, step: Step, domain_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED)."""

        async def remove(connection: Connection) -> bool:
            await rows.remove(connection, step, "domain", domain_id, etag, hold=sql.hold, delete=sql.delete)
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)


def _columns(domain: Domain) -> list[Any]:
    return rows.columns(domain, dns_records=orjson.dumps(domain.dns_records).decode())


def _read(record: rows.Record) -> Domain:
    records = tuple(DnsRecord(**each) for each in orjson.loads(record["dns_records"]))
    return rows.read(Domain, record, dns_records=records)
