"""What bounds the leases of kinds, across tenants: rates, and how many jobs may be in flight."""

from __future__ import annotations

from typing import Any

from penguin_chassis.pool import Connection
from penguin_chassis.queries import load
from penguin_queue.domain.rates import Rate, Rated

sql = load("penguin_queue.store", "bounds.sql")


async def bounds(connection: Connection) -> tuple[dict[str, Rated], dict[str, int]]:
    """The kinds that go by a rate, and by which; and those of which only so many may be in flight, by their queues' numbers."""
    rows = await connection.fetch(sql.rated)
    limited = await connection.fetch(sql.limited)
    rated = {row["kind"]: Rated(row["queue"], *(_rate(row, name) for name in ("", "tenant_", "key_"))) for row in rows}
    return rated, {row["name"]: row["queue_id"] for row in limited}


def _rate(row: Any, whose: str) -> Rate | None:
    jobs, ms, burst = (row[f"{whose}rate_{part}"] for part in ("jobs", "ms", "burst"))
    return None if jobs is None else Rate(1000 * jobs / ms, burst)
