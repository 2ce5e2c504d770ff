"""A month gets its partition, and what had fallen to the default one before moves there; only the duty may do that."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Database
from penguin_olap.domain.days import Span
from penguin_olap.domain.facts import Cell, Measures, day_load
from penguin_olap.store.facts import FactStore
from penguin_olap.store.partitions import open_months
from penguin_olap.store.reports import ReportStore

TABLES = ("campaign_analytics", "sequence_step_analytics", "mailbox_analytics", "billing_analytics")
STANDS_IN = "SELECT tableoid::regclass::text, count(*) FROM {table} WHERE tenant_id = $1 GROUP BY 1"


async def load(db: Database, tenant: UUID, day: date, campaign: UUID) -> None:
    at = datetime.now(UTC)
    cells = [Cell(campaign, uuid4(), uuid4(), Measures(sent=3, delivered=2, bounced=1))]
    step = Step(tenant, f"req:{uuid4()}", b"", at)
    assert not (await FactStore(db, 100).load_day(step, day_load(day, cells, 7, at, at))).stale


async def places(db: Database, tenant: UUID, table: str) -> dict[str, int]:
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch(STANDS_IN.format(table=table), tenant)
    return {row[0]: row[1] for row in rows}


async def test_what_fell_to_the_default_moves_to_its_month(db: Database) -> None:
    tenants, campaign = [uuid4(), uuid4()], uuid4()
    day = date(2077, 2, 28)
    for tenant in tenants:
        await load(db, tenant, day, campaign)
        for table in TABLES:
            assert await places(db, tenant, table) == {f"{table}_default": 1}
    report = await ReportStore(db).campaign(tenants[0], campaign, Span(day, day))
    for _ in range(2):
        await open_months(db, datetime(2076, 12, 31, tzinfo=UTC))
    for tenant in tenants:
        for table in TABLES:
            assert await places(db, tenant, table) == {f"{table}_207702": 1}
    assert await ReportStore(db).campaign(tenants[0], campaign, Span(day, day)) == report
    await load(db, tenants[0], date(2077, 3, 31), campaign)
    assert (await places(db, tenants[0], "billing_analytics"))["billing_analytics_207703"] == 1


async def test_the_application_role_opens_no_month(db: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant(uuid4()) as connection:
            await connection.execute("SELECT open_month('billing_analytics', '2090-01-01')")


async def test_partitions_hide_rows_as_their_parents_do(db: Database) -> None:
    async with db.maintenance() as connection:
        bare = await connection.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid"
            " WHERE c.relkind = 'r' AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"
        )
    assert bare == []
    owner, stranger = uuid4(), uuid4()
    await load(db, owner, date(1999, 1, 1), uuid4())
    for table in TABLES:
        assert await places(db, stranger, table) == {}
        async with db.tenant(stranger) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
