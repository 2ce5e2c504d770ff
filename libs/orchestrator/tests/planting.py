"""What the tests of reconcile plant in the tiers' databases, and how they read a receipt."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1.reconcile_service_pb2_grpc import ReconcileServiceStub
from penguin_chassis.pool import Database
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.reconciling.running import closed_before

CLOSED = closed_before(time.time()) - 1

CONTENT = """
INSERT INTO content_objects (tenant_id, storage_key, state, generation, claim_by, created_at, content_hash, raw_source,
    codec, raw_size, stored_size, attachment_count, defects, body, quarantined_at)
SELECT $1, key, $4, $3, $5, now(), sha256(key::bytea), false, 'none', 1, 1, 0, '{}', 'x', $6
FROM unnest($2::text[]) AS key"""
EMAIL = """
INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status, priority,
    content_storage_key, content_generation, message_id, queued_at)
SELECT $1, gen_random_uuid(), 'a@example.com', '', 'us@example.com', '', 's', 'sent', 'normal', key, $3, key, now()
FROM unnest($2::text[]) AS key"""
INBOX = """
INSERT INTO inbox_message_refs (tenant_id, id, mailbox, direction, message_id, in_reply_to, thread_id, sender, subject,
    received_at, content_storage_key, content_generation, fingerprint, defects)
SELECT $1, gen_random_uuid(), 'm@example.com', 'inbound', key, '', key, 'a@example.com', 's', now(), key, $3, key, '{}'
FROM unnest($2::text[]) AS key"""


def minted(count: int) -> list[str]:
    return [f"k/{uuid4().hex}" for _ in range(count)]


class World:
    """A tenant whose keys are planted on either side, straight into the databases."""

    def __init__(self, tenant: UUID, oltp: Database, content: Database) -> None:
        self.tenant = tenant
        self._oltp = oltp
        self._content = content

    async def keep(
        self,
        stored: list[str],
        *,
        state: str = "claimed",
        generation: int = CLOSED,
        quarantined_s: float | None = None,
        claim_s: float = -60,
    ) -> list[str]:
        """Contents of these keys; in quarantine for so many seconds, where that is given."""
        since = None if quarantined_s is None else datetime_ago(quarantined_s)
        async with self._content.tenant(self.tenant) as connection:
            await connection.execute(CONTENT, self.tenant, stored, generation, state, datetime_ago(-claim_s), since)
        return stored

    async def refer(self, stored: list[str], *, generation: int = CLOSED, by: str = EMAIL) -> list[str]:
        """Rows that refer to these keys."""
        async with self._oltp.tenant(self.tenant) as connection:
            await connection.execute(by, self.tenant, stored, generation)
        return stored

    async def both(self, count: int, **where: Any) -> list[str]:
        """Keys that agree."""
        return await self.refer(await self.keep(minted(count), **where), **where)

    async def states(self) -> dict[str, tuple[str, bool]]:
        """State, and whether in quarantine, by key."""
        async with self._content.tenant(self.tenant) as connection:
            rows = await connection.fetch(
                "SELECT storage_key, state, quarantined_at IS NOT NULL AS aside FROM content_objects"
                " WHERE tenant_id = $1", self.tenant,
            )  # fmt: skip
        return {row["storage_key"]: (row["state"], row["aside"]) for row in rows}

    async def execute(self, statement: str, *values: Any) -> None:
        """Change what stands in Content."""
        async with self._content.tenant(self.tenant) as connection:
            await connection.execute(statement, self.tenant, *values)


def datetime_ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


async def findings(tiers: Mapping[str, Tier], run: pb.ReconcileRun) -> set[tuple[str, str, str]]:
    """Kind, subject and action of what a run found."""
    oltp = tiers["oltp"]
    request = pb.ListReconcileFindingsRequest(run_id=run.id, page_size=1000)
    reply = await oltp.call(oltp.stub(ReconcileServiceStub).ListReconcileFindings, request)
    return {(each.kind, each.subject, each.action) for each in reply.findings}


def refused(run: pb.ReconcileRun, words: str) -> None:
    assert run.status == pb.RECONCILE_STATUS_REFUSED
    assert words in run.refused_reason
    assert not run.counts.get("quarantined")
    assert not run.counts.get("deleted")
