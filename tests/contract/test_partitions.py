"""Partitions are made and dropped beside who reads and writes: housekeeping gives up soon, and comes again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

import penguin_olap.store
import penguin_oltp.store
import penguin_queue.store
from penguin_chassis.housekeeping import Duty
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_testkit.databases import Databases

NOW = datetime.now(UTC)
OLD = NOW.date().replace(year=2020, month=1, day=1)
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass"


@dataclass(frozen=True)
class Case:
    """A tier's duty over one of its tables: made is what it lacks in half a year, dropped is what is of long ago."""

    tier: str
    table: str
    duties: tuple[Duty, ...]
    duty: str
    step: str
    drops: bool

    @property
    def at(self) -> datetime:
        return NOW if self.drops else NOW + timedelta(days=180)

    async def act(self, db: Database) -> None:
        (run,) = [each.run for each in self.duties if each.name == self.duty]
        await run(db, self.at)

    def __str__(self) -> str:
        return f"{self.tier}-{'drop' if self.drops else 'make'}"


EVENTS = ("oltp", "email_event_ids", penguin_oltp.store.DUTIES, "email_event_partitions", "day")
JOBS = ("queue", "completed_jobs", penguin_queue.store.DUTIES, "job_partitions", "day")
FACTS = ("olap", "billing_analytics", penguin_olap.store.DUTIES, "fact_partitions", "month")
# Facts stay.
CASES = [Case(*EVENTS, False), Case(*EVENTS, True), Case(*JOBS, False), Case(*JOBS, True), Case(*FACTS, False)]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
async def urls(case: Case, databases: Databases) -> TierDatabase:
    return await databases.clone(case.tier)


@pytest.fixture
async def owner(case: Case, urls: TierDatabase) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(urls.owner_url)
    if case.drops:
        await connection.execute("SELECT ensure_partitions($1::text::regclass, $2, $3, $3)", case.table, case.step, OLD)
    yield connection
    await connection.close()


async def slowest_write(connection: asyncpg.Connection, table: str, until: asyncio.Task[None]) -> float:
    """How long a writer waited at most to be let at the table, again and again until that is done (seconds)."""
    slowest = 0.0
    while not until.done():
        began = time.monotonic()
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
        slowest = max(slowest, time.monotonic() - began)
    return slowest


async def test_housekeeping_gives_way_to_a_reader_and_keeps_no_writer_waiting(
    case: Case, urls: TierDatabase, owner: asyncpg.Connection
) -> None:
    before = {row[0] for row in await owner.fetch(PARTITIONS, case.table)}
    reader = await asyncpg.connect(urls.owner_url)
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as db:
        try:
            async with db.maintenance():
                pass  # connected now, so that what is measured is the waiting
            async with reader.transaction():
                await reader.execute(f"LOCK TABLE {case.table} IN ACCESS SHARE MODE")
                keeping = asyncio.create_task(case.act(db))
                async with asyncio.timeout(2):
                    waited = await slowest_write(owner, case.table, keeping)
                assert waited < 1
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await keeping
            assert {row[0] for row in await owner.fetch(PARTITIONS, case.table)} == before
        finally:
            await reader.close()
        await case.act(db)
    after = {row[0] for row in await owner.fetch(PARTITIONS, case.table)}
    assert (before - after if case.drops else after - before) != set()
