"""What migrations do to rows that are there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg

from penguin_chassis.migrate import load
from penguin_queue.domain.jobs import LATEST
from penguin_testkit.databases import Databases

AT = datetime(2026, 3, 1, tzinfo=UTC)
UNDO = """
ALTER TABLE jobs DROP CONSTRAINT jobs_run_at_check;
ALTER TABLE wakes DROP COLUMN seen;
DROP FUNCTION waking;
"""
INSERT = """
INSERT INTO jobs (id, run_at, created_at, tenant_id, kind_id, priority, max_attempts, state, payload)
VALUES ($1, $2, $3, $4, 1, 2, 3, 1, '{}')
"""


async def test_a_job_that_was_due_at_no_moment_is_due_at_one(databases: Databases) -> None:
    urls = await databases.clone("queue")
    (door,) = [each for each in load("penguin_queue.migrations") if each.name == "door"]
    owner = await asyncpg.connect(urls.owner_url)
    maintenance = await asyncpg.connect(urls.maintenance_url)
    try:
        await owner.execute(UNDO)
        first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        times = (first, last, AT - timedelta(1), AT + timedelta(1))
        for n, run_at in enumerate(times):
            await maintenance.execute(INSERT, n, run_at, AT, uuid4())
        await owner.execute(door.text)
        rows = await maintenance.fetch("SELECT run_at FROM jobs ORDER BY id")
        assert [row["run_at"] for row in rows] == [AT, LATEST, AT - timedelta(1), AT + timedelta(1)]
        assert await owner.fetch("SELECT FROM jobs") == []
    finally:
        await owner.close()
        await maintenance.close()
