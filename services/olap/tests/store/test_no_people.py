"""Facts are of campaigns, steps, mailboxes and days: no column of them could hold a person's address."""

from __future__ import annotations

import asyncpg

from penguin_devstack.roles import TierDatabase

WORDS = """
SELECT c.oid::regclass::text || '.' || a.attname AS name
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid IN ('text'::regtype, 'bytea'::regtype, 'jsonb'::regtype, 'json'::regtype, 'text[]'::regtype)"""
# What every tier has; a load's digest, and how far the ledger was read.
KNOWN = {"day_loads.digest", "watermarks.source", "watermarks.cursor"}
CHASSIS = {
    "schema_migrations",
    "step_barrier",
    "outbox",
    "tier_tenants",
    "legal_holds",
    "legal_hold_keys",
    "incarnation",
}


async def test_facts_have_no_place_for_an_address(olap_urls: TierDatabase) -> None:
    connection = await asyncpg.connect(olap_urls.owner_url)
    try:
        found = {row["name"] for row in await connection.fetch(WORDS)}
    finally:
        await connection.close()
    assert {name for name in found if name.split(".")[0] not in CHASSIS} == KNOWN
