"""The sums over Content's keys are read from an index alone, under row-level security, and never from the bodies."""

from __future__ import annotations

from uuid import UUID

import pytest
from asyncpg import Record

from penguin_chassis.keys import sql
from penguin_chassis.pool import Database

FILL = """
INSERT INTO content_objects (tenant_id, storage_key, state, generation, claim_by, created_at, content_hash, raw_source,
    codec, raw_size, stored_size, attachment_count, defects, body)
SELECT $1, 'k' || n, 'claimed', n % 50, now(), now(), sha256('x'), false, 'none', 1, 1, 0, '{}', repeat('x', 900)::bytea
FROM generate_series(1, 5000) AS n"""


@pytest.mark.parametrize("name", ["digest_generations", "digest_buckets", "list"])
async def test_keys_are_read_from_their_index(own_db: Database, tenant: UUID, name: str) -> None:
    async with own_db.tenant(tenant) as connection:
        await connection.execute(FILL, tenant)
    buckets = ([3], [3], ["a"], 1)
    arguments = {
        "digest_generations": (3, 4, None),
        "digest_buckets": buckets,
        "list": (*buckets, -1, "", 10),
    }[name]
    async with own_db.tenant(tenant) as connection:
        rows: list[Record] = await connection.fetch(f"EXPLAIN {getattr(sql, name)}", tenant, "contents", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert "content_objects_keys" in plan, plan
    assert "Seq Scan on content_objects" not in plan, plan
