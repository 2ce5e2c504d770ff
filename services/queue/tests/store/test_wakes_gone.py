"""Wakes that were seen to, while somebody holds a snapshot: they cannot be removed, and are walked over no more."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from penguin_chassis.pool import Connection, Database
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.wakes import Turns, drain

AT = datetime(2026, 3, 1, tzinfo=UTC)
WAKES = "INSERT INTO wakes (tenant_id, job_id) SELECT $1, n FROM generate_series(1, $2::integer) AS n"


async def pages(connection: Connection, query: str) -> int:
    """Pages that it reads, each time again."""
    (plan,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"))
    return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])


async def test_rounds_do_not_walk_over_what_earlier_ones_saw_to(own_db: Database) -> None:
    tenant, turns, kinds, at = uuid4(), Turns(), Kinds(), AT
    async with own_db.maintenance() as holder:
        # Nothing that goes from here on can be removed.
        await holder.execute("SELECT pg_current_xact_id()")
        for _ in range(3):
            async with own_db.maintenance() as connection:
                await connection.execute(WAKES, tenant, 2000)
            more = True
            while more:
                _, more = await drain(own_db, kinds, at, turns)
            at += timedelta(seconds=10)
        async with own_db.maintenance() as connection:
            assert await connection.fetchval("SELECT count(*) FROM wakes") == 0
            await drain(own_db, kinds, at, turns)
            # Those of the last turn at most, and not those of all three.
            look = "SELECT * FROM wakes_after({}, 1000)"
            after, before = [await pages(connection, look.format(n)) for n in (turns.floor.below, 0)]
            assert after * 2 < before
