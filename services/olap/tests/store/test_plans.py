"""Reports stay on their indexes and in their months, as the application role with row-level security on."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from penguin_chassis.pool import Connection, Database
from penguin_devstack.roles import TierDatabase
from penguin_olap.domain.facts import MEASURES
from penguin_olap.store.facts import sql as facts_sql
from penguin_olap.store.reports import SOURCE, sql

TABLES = {
    "campaign_analytics": ("campaign_id",),
    "sequence_step_analytics": ("campaign_id", "step_id"),
    "mailbox_analytics": ("email_account_id",),
}
# Half a year of 40 subjects for each of 5 tenants: enough for a planner to prefer reading it all where it may.
DAYS, SUBJECTS, TENANTS = 180, 40, 5


def fill(table: str, ids: tuple[str, ...]) -> str:
    """Rows of one tenant in the months around today."""
    subjects = ", ".join("md5(s::text)::uuid" for _ in ids)
    measures = ", ".join("s" for _ in MEASURES)
    return f"""
        INSERT INTO {table} (tenant_id, day, {", ".join(ids)}, {", ".join(MEASURES)}, computed_at)
        SELECT $1, current_date - d, {subjects}, {measures}, now()
        FROM generate_series(1, {DAYS}) AS d, generate_series(1, {SUBJECTS}) AS s"""


@pytest.fixture(scope="module")
async def full(db: Database, olap_urls: TierDatabase) -> UUID:
    """A tenant among others, with half a year of facts."""
    tenants = [uuid4() for _ in range(TENANTS)]
    for tenant in tenants:
        async with db.tenant(tenant) as connection:
            for table, ids in TABLES.items():
                await connection.execute(fill(table, ids), tenant)
    async with db.maintenance() as connection:
        await connection.execute(
            "INSERT INTO billing_analytics SELECT tenant, current_date - d, 1, 1, 1, 1, 1, now()"
            f" FROM unnest($1::uuid[]) AS tenant, generate_series(1, {DAYS}) AS d",
            [*tenants, *(uuid4() for _ in range(200))],
        )
    owner = await asyncpg.connect(olap_urls.owner_url, timeout=10)
    try:
        await owner.execute(f"ANALYZE {', '.join((*TABLES, 'billing_analytics'))}")
    finally:
        await owner.close(timeout=5)
    return tenants[0]


async def scans(connection: Connection, query: str, *args: Any) -> list[dict[str, Any]]:
    """The plan's nodes that read a table or an index."""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *args))
    return _scans(plan[0]["Plan"])


def _scans(node: dict[str, Any]) -> list[dict[str, Any]]:
    below = [scan for child in node.get("Plans", []) for scan in _scans(child)]
    return [*below, node] if "Scan" in node["Node Type"] else below


def _condition(scan: dict[str, Any]) -> str:
    condition: str = scan.get("Index Cond") or scan.get("Recheck Cond") or ""
    return condition


async def span(connection: Connection) -> tuple[date, date]:
    """Three weeks: they touch one month or two."""
    today: date = await connection.fetchval("SELECT current_date")
    return today - timedelta(days=60), today - timedelta(days=40)


@pytest.mark.parametrize(
    ("query", "subject"),
    [(sql.campaign, "campaign_id"), (sql.mailbox, "email_account_id"), (sql.billing, "")],
    ids=["campaign", "mailbox", "billing"],
)
async def test_a_report_reads_its_months_by_index(db: Database, full: UUID, query: str, subject: str) -> None:
    async with db.tenant(full) as connection:
        days = await span(connection)
        found = await scans(connection, query, full, *([uuid4()] if subject else []), *days)
    tables = {scan["Relation Name"] for scan in found if "Relation Name" in scan}
    months = {f"{day:%Y%m}" for day in days}
    assert {name.rsplit("_", 1)[-1] for name in tables} == months
    for scan in found:
        assert scan["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Index Scan", "Bitmap Heap Scan"}
        assert "tenant_id" in _condition(scan)
        assert "day" in _condition(scan)
        assert subject in _condition(scan)


async def test_totals_read_the_tenants_months_by_index(db: Database, full: UUID) -> None:
    async with db.tenant(full) as connection:
        days = await span(connection)
        found = await scans(connection, sql.campaign_totals, full, UUID(int=0), *days, 101)
    tables = {scan["Relation Name"] for scan in found if "Relation Name" in scan}
    assert {name.rsplit("_", 1)[-1] for name in tables} == {f"{day:%Y%m}" for day in days}
    assert all("tenant_id" in _condition(scan) for scan in found)


@pytest.mark.parametrize("query", [sql.data_through, facts_sql.watermark], ids=["data_through", "watermark"])
async def test_a_watermark_is_one_row_by_its_key(db: Database, full: UUID, query: str) -> None:
    async with db.tenant(full) as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        (scan,) = await scans(connection, query, full, SOURCE)
    assert {word for word in ("tenant_id", "source") if word in _condition(scan)} == {"tenant_id", "source"}
