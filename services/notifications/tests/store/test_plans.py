"""Lists, counts and the feed stay on their indexes, as the application role with row-level security on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from penguin_chassis.pool import Connection, Database
from penguin_devstack.roles import TierDatabase
from penguin_notifications.store.feed import sql as feed_sql
from penguin_notifications.store.notifications import sql

LAST = UUID(int=2**128 - 1)
FAR = datetime(9999, 1, 1, tzinfo=UTC)
# Transactions long past. 6,000 for each of 3 tenants; a twentieth is for the whole tenant, a tenth unread.
FILL = """
INSERT INTO notifications (
    tenant_id, id, user_id, type, title, message, channel, subject_ref, is_read, created_at, feed_xid)
SELECT $1, gen_random_uuid(), CASE WHEN n % 20 = 0 THEN NULL ELSE md5((n % 3)::text)::uuid END, 'a.b', 'title', 'message',
    'in_app', '', n % 10 <> 3, now() - n * interval '1 minute', n - 6000
FROM generate_series(1, 6000) AS n"""


@pytest.fixture(scope="module")
async def full(db: Database, notifications_urls: TierDatabase) -> UUID:
    """A tenant among others, with many notifications."""
    tenants = [uuid4() for _ in range(3)]
    for tenant in tenants:
        async with db.tenant(tenant) as connection:
            await connection.execute(FILL, tenant)
    owner = await asyncpg.connect(notifications_urls.owner_url, timeout=10)
    try:
        await owner.execute("ANALYZE notifications")
    finally:
        await owner.close(timeout=5)
    return tenants[0]


async def scans(connection: Connection, query: str, *args: Any) -> list[dict[str, Any]]:
    """The plan's nodes that read a table or an index."""
    plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *args))
    return _scans(plan[0]["Plan"])


def _scans(node: dict[str, Any]) -> list[dict[str, Any]]:
    below = [scan for child in node.get("Plans", []) for scan in _scans(child)]
    reads = "Relation Name" in node or "Index Name" in node
    return [*below, node] if reads else below


async def test_lists_read_the_newest_first_off_their_indexes(db: Database, full: UUID) -> None:
    async with db.tenant(full) as connection:
        user = await connection.fetchval("SELECT user_id FROM notifications WHERE user_id IS NOT NULL LIMIT 1")
        found = await scans(connection, sql.list_all, full, user, datetime.now(UTC), FAR, LAST, 21)
    assert [scan["Index Name"] for scan in found] == ["notifications_newest", "notifications_for_all"]
    for scan in found:
        # Not by bitmap: the index gives the order, and the limit ends the reading.
        assert scan["Node Type"] == "Index Scan"
        assert "tenant_id" in scan["Index Cond"]
        assert "ROW(created_at, id) <" in scan["Index Cond"]


async def test_unread_ones_are_listed_and_counted_off_their_index(db: Database, full: UUID) -> None:
    async with db.tenant(full) as connection:
        user = await connection.fetchval("SELECT user_id FROM notifications WHERE user_id IS NOT NULL LIMIT 1")
        listed = await scans(connection, sql.list_unread, full, user, datetime.now(UTC), FAR, LAST, 21)
        counted = await scans(connection, sql.count_unread, full, user, datetime.now(UTC))
    assert (listed[0]["Node Type"], listed[0]["Index Name"]) == ("Index Scan", "notifications_unread")
    assert {scan["Index Name"] for scan in counted if "Index Name" in scan} == {"notifications_unread"}
    assert not [scan for scan in (*listed, *counted) if scan["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize(("place", "ordered"), [(-6_000, True), (-100, False)], ids=["far behind", "up to date"])
async def test_the_feed_goes_on_from_its_place_by_index(db: Database, full: UUID, place: int, ordered: bool) -> None:
    async with db.tenant(full) as connection:
        user = await connection.fetchval("SELECT user_id FROM notifications WHERE user_id IS NOT NULL LIMIT 1")
        found = await scans(connection, feed_sql.news, full, user, datetime.now(UTC), place, LAST, 200)
    (scan,) = [each for each in found if "Index Name" in each]
    assert scan["Index Name"] == "notifications_feed"
    assert "ROW(feed_xid, id) >" in scan["Index Cond"]
    assert "feed_xid <" in scan["Index Cond"]
    if ordered:
        # A watcher that is far behind must not have everything since read and sorted for each 200.
        assert scan["Node Type"] == "Index Scan"
