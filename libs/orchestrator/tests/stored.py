"""What the tiers hold of a tenant, as the tests of the orchestrator ask for it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

from penguin_chassis.pool import Database
from penguin_orchestrator.messages import OutgoingEmail


def outgoing(**fields: Any) -> OutgoingEmail:
    """An email that any tier takes."""
    usual: dict[str, Any] = {
        "recipient": f"{uuid4().hex}@example.com", "sender": "us@sender.example", "subject": "Hello",
        "text": "Dear Ada,", "html": "<p>Dear Ada,</p>",
    }  # fmt: skip
    return OutgoingEmail(**(usual | fields))


async def until(holds: Callable[[], Awaitable[object]], within_s: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(within_s):
        for _ in itertools.count():
            if await holds():
                return
            await asyncio.sleep(0.02)


async def emails(db: Database, tenant: UUID) -> dict[UUID, str]:
    """The ledger: storage keys by email id."""
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT id, content_storage_key FROM emails WHERE tenant_id = $1", tenant)
    return {row["id"]: row["content_storage_key"] for row in rows}


async def contents(db: Database, tenant: UUID) -> dict[str, str]:
    """States by storage key."""
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT storage_key, state FROM content_objects WHERE tenant_id = $1", tenant)
    return {row["storage_key"]: row["state"] for row in rows}


async def blobs(db: Database, tenant: UUID) -> list[int]:
    """Sizes of the tenant's attachments, each once."""
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT raw_size FROM blobs WHERE tenant_id = $1 ORDER BY 1", tenant)
    return [row["raw_size"] for row in rows]


async def owed(db: Database, tenant: UUID) -> list[tuple[str, int, str]]:
    """Destination, attempt and last error of what is owed."""
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch(
            "SELECT destination, attempt, last_error FROM outbox WHERE tenant_id = $1 ORDER BY 1", tenant
        )
    return [tuple(row) for row in rows]


async def jobs(db: Database, tenant: UUID) -> int:
    """How many jobs there are."""
    async with db.tenant(tenant) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM jobs WHERE tenant_id = $1", tenant)
    return count
