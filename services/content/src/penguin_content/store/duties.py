"""What comes round across tenants: contents that nobody claimed in time are quarantined, uploads that nothing came to
refer to are removed, and lists of people whose time is over. It deletes no other content: that is reconcile's, once an owner
has been asked."""

from __future__ import annotations

import random
from datetime import datetime
from uuid import UUID

from penguin_chassis import subjects
from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_content.store import blobs, contents

sql = load("penguin_content.store", "duties.sql")

# One round's bounds: what is left over waits for the next.
TENANTS_A_ROUND = 100
ROWS_A_TENANT = 1_000
LISTS_A_TENANT = 20


async def _tenants(db: Database, query: str, at: datetime) -> list[UUID]:
    async with db.maintenance() as connection:
        start = UUID(int=random.getrandbits(128))
        rows = await connection.fetch(query, start, at, TENANTS_A_ROUND)
        if len(rows) < TENANTS_A_ROUND:
            rows += await connection.fetch(query, UUID(int=0), at, TENANTS_A_ROUND - len(rows))
    return list(dict.fromkeys(row["tenant_id"] for row in rows))


async def quarantine_overdue(db: Database, at: datetime) -> None:
    """Move unclaimed contents past their claim_by to quarantine, a bounded number of each tenant's."""
    for tenant in await _tenants(db, sql.overdue_content_tenants, at):
        async with db.maintenance() as connection:
            await connection.execute(sql.quarantine, tenant, at, ROWS_A_TENANT)


async def remove_overdue_lists(db: Database, at: datetime) -> None:
    """Remove lists of people past their claim_by, of closed tenants too: nobody refers to them, and no owner need be asked."""
    for tenant in await _tenants(db, sql.overdue_list_tenants, at):
        async with db.maintenance() as connection:
            await connection.execute(subjects.sql.no_new_holds)
            keys = [
                row["storage_key"] for row in await connection.fetch(sql.lock_overdue_lists, tenant, at, LISTS_A_TENANT)
            ]
            await contents.remove(connection, tenant, keys, at)


async def remove_overdue_blobs(db: Database, at: datetime) -> None:
    """Remove blobs past their claim_by that nothing refers to; the others no longer need one."""
    for tenant in await _tenants(db, sql.overdue_blob_tenants, at):
        async with db.maintenance() as connection:
            rows = await connection.fetch(sql.lock_overdue_blobs, tenant, at, ROWS_A_TENANT)
            hashes = [row["sha256"] for row in rows]
            await connection.execute(blobs.sql.remove_unreferenced, tenant, hashes, at)
            await connection.execute(sql.settle_blobs, tenant, hashes)
