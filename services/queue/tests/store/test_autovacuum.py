"""Tables that turn over fast say how they are vacuumed; every other one is known to be quiet."""

from __future__ import annotations

import pytest

from penguin_chassis.pool import Database

# At how many dead rows a vacuum comes, at most, where a table has so many rows.
HOT = {
    "jobs": (1_000_000, 2000),
    "wakes": (1_000_000, 1000),
    "batches": (1_000_000, 1000),
    "dependencies": (1_000_000, 11_000),
    "unique_keys": (1_000_000, 11_000),
    "fleet": (1, 1000),
    "schedules": (1_000_000, 11_000),
    "step_barrier": (100_000_000, 2_010_000),
    # Nothing of this tier's is owed to others; the chassis' own settings.
    "outbox": (1_000_000, 21_000),
}
# Changed by people or once a day, or only ever added to.
QUIET = {
    "kinds", "kinds_made", "queues", "pauses", "tenant_weights", "schema_migrations", "tier_tenants", "legal_holds", "legal_hold_keys", "incarnation",
}  # fmt: skip
OPTIONS = """
SELECT c.relname, coalesce(c.reloptions, '{}') AS options FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind = 'r' AND NOT c.relispartition"""


async def options(db: Database) -> dict[str, dict[str, float]]:
    async with db.maintenance() as connection:
        rows = await connection.fetch(OPTIONS)
    return {
        row["relname"]: {name: float(value) for name, value in (each.split("=") for each in row["options"])}
        for row in rows
    }


async def test_every_table_is_known_to_be_hot_or_quiet(db: Database) -> None:
    found = await options(db)
    assert set(found) == HOT.keys() | QUIET
    assert {table for table, said in found.items() if said} == HOT.keys()


@pytest.mark.parametrize("table", HOT)
async def test_what_is_dead_in_a_hot_table_is_removed_before_it_is_much(db: Database, table: str) -> None:
    said = (await options(db))[table]
    rows, at_most = HOT[table]
    threshold = said.get("autovacuum_vacuum_threshold", 50) + rows * said["autovacuum_vacuum_scale_factor"]
    assert threshold <= at_most
    # A vacuum that takes breaks is not done with a table of this kind before the next one is due.
    assert said.get("autovacuum_vacuum_cost_delay") == (None if table in {"step_barrier", "outbox"} else 0)
