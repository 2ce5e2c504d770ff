"""Counts over all tenants' jobs, for those who run the platform."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from penguin_chassis.pool import Database
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "census.sql")

TENANTS_MAX = 100


@dataclass(frozen=True)
class Depth:
    """Jobs of one kind and priority, by what they wait for."""

    queue: str
    kind: str
    priority: int
    scheduled: int
    ready: int
    leased: int
    oldest_ready_at: datetime | None
    dead: int


@dataclass(frozen=True)
class TenantDepth:
    """A tenant's jobs."""

    tenant_id: UUID
    waiting: int
    leased: int


@dataclass(frozen=True)
class Counts:
    """Everything that was counted, the tenants with the most jobs first, and of when it is."""

    depths: list[Depth]
    tenants: list[TenantDepth]
    dead_rows: int
    at: datetime
    # Since when the oldest transaction, as far as can be seen, holds vacuum back (seconds), and what each replication slot
    # that does so holds.
    oldest_xmin_age: float
    slot_xmins: dict[str, str]


class CensusStore:
    """Counts of one database. A count reads every job there is."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def count(self, at: datetime) -> Counts:
        """Count everything once."""
        async with self._db.maintenance() as connection:
            depths = [Depth(**row) for row in await connection.fetch(sql.depths)]
            tenants = [TenantDepth(**row) for row in await connection.fetch(sql.tenants, TENANTS_MAX)]
            dead_rows = await connection.fetchval(sql.dead_rows)
            age = await connection.fetchval(sql.oldest_xmin_age)
            slots = {row["slot_name"]: row["xmin"] for row in await connection.fetch(sql.slot_xmins)}
            return Counts(depths, tenants, dead_rows, at, max(0.0, age), slots)
