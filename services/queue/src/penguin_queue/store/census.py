"""Counts over all tenants' jobs, for those who run the platform."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from penguin_chassis.pool import Database
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "census.sql")

TENANTS_MAX = 100
# Of how long a time the rates are.
WINDOW = timedelta(seconds=30)


@dataclass(frozen=True)
class Depth:
    """Jobs of one kind and priority, by what they wait for."""

    queue: str
    kind: str
    priority: int
    scheduled: int
    ready: int
    leased: int
    # Waiting for other jobs.
    held: int
    oldest_ready_at: datetime | None
    dead: int
    # Enqueued in the last WINDOW.
    fresh: int


@dataclass(frozen=True)
class Flow:
    """What happened to jobs of one kind in the last WINDOW. `dead` are those that were given up, kept or discarded."""

    queue: str
    kind: str
    enqueued: int
    completed: int
    dead: int
    cancelled: int


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
    # What vacuum has not removed of each hot table.
    dead_rows: dict[str, int]
    at: datetime
    # Since when the oldest transaction, as far as can be seen, holds vacuum back (seconds), and what each replication slot
    # that does so holds.
    oldest_xmin_age: float
    slot_xmins: dict[str, str]
    flows: list[Flow]


class CensusStore:
    """Counts of one database. A count reads every job there is."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def count(self, at: datetime) -> Counts:
        """Count everything once."""
        since = at - WINDOW
        async with self._db.maintenance() as connection:
            depths = [Depth(**row) for row in await connection.fetch(sql.depths, since)]
            flows = _flows(depths, await connection.fetch(sql.ends, since))
            tenants = [TenantDepth(**row) for row in await connection.fetch(sql.tenants, TENANTS_MAX)]
            dead_rows = {row["relname"]: row["n_dead_tup"] for row in await connection.fetch(sql.dead_rows)}
            age = await connection.fetchval(sql.oldest_xmin_age)
            slots = {row["slot_name"]: row["xmin"] for row in await connection.fetch(sql.slot_xmins)}
            return Counts(depths, tenants, dead_rows, at, max(0.0, age), slots, flows)


def _flows(depths: Sequence[Depth], ends: Sequence[Any]) -> list[Flow]:
    """By queue and kind; what was enqueued in the window is still there, or has ended in it."""
    fresh: Counter[tuple[str, str]] = Counter()
    for depth in depths:
        fresh[depth.queue, depth.kind] += depth.fresh
    over = {(row["queue"], row["kind"]): row for row in ends}
    for name, row in over.items():
        fresh[name] += row["fresh"]
    return [
        Flow(*name, fresh[name], *((0, 0, 0) if row is None else (row["completed"], row["dead"], row["cancelled"])))
        for name in sorted(fresh)
        if (row := over.get(name)) is not None or fresh[name]
    ]
