"""What a platform is compared with: one PostgreSQL database that writes the same rows in one local transaction.

No row-level security, no authentication, no validation, no compression of its own (TOAST does what it does by default), no
idempotency record: bodies, ledger rows and jobs, with the same columns and indexes as the tiers have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg

from penguin_orchestrator import keys
from penguin_orchestrator.messages import OutgoingEmail

SCHEMA = """
CREATE TABLE content_objects (
    tenant_id uuid NOT NULL, storage_key text NOT NULL, state text NOT NULL, content_hash text NOT NULL,
    body_text text NOT NULL, body_html text NOT NULL, headers jsonb NOT NULL, raw_size integer NOT NULL,
    claim_by timestamptz, created_at timestamptz NOT NULL, PRIMARY KEY (tenant_id, storage_key));
CREATE TABLE emails (
    tenant_id uuid NOT NULL, id uuid NOT NULL, recipient text NOT NULL, recipient_name text NOT NULL,
    sender text NOT NULL, sender_name text NOT NULL, subject text NOT NULL, status text NOT NULL, priority text NOT NULL,
    content_storage_key text NOT NULL, content_generation bigint NOT NULL, campaign_id uuid, step_id uuid, lead_id uuid,
    email_account_id uuid, message_id text NOT NULL, attempt integer NOT NULL DEFAULT 0,
    version integer NOT NULL DEFAULT 1, send_at timestamptz, queued_at timestamptz NOT NULL, sending_at timestamptz,
    sent_at timestamptz, finished_at timestamptz, PRIMARY KEY (tenant_id, id));
CREATE UNIQUE INDEX ON emails (tenant_id, step_id, lead_id) WHERE lead_id IS NOT NULL;
CREATE UNIQUE INDEX ON emails (tenant_id, content_storage_key);
CREATE INDEX ON emails (tenant_id, campaign_id, status) WHERE campaign_id IS NOT NULL;
CREATE INDEX ON emails (tenant_id, lower(recipient), id);
CREATE INDEX ON emails (tenant_id, status, id) WHERE status IN ('sending', 'outcome_unknown', 'failed');
CREATE TABLE jobs (
    tenant_id uuid NOT NULL, id uuid NOT NULL, kind text NOT NULL, payload jsonb NOT NULL, priority smallint NOT NULL,
    state text NOT NULL, run_at timestamptz NOT NULL, attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL, PRIMARY KEY (tenant_id, id));
CREATE INDEX ON jobs (priority, run_at, id) WHERE state = 'ready';
"""
CONTENT = """
INSERT INTO content_objects SELECT $1, k, 'claimed', h, t, m, '{}', n, NULL, $6
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $7::int[]) AS c (k, h, t, m, n)"""
EMAILS = """
INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status, priority,
    content_storage_key, content_generation, message_id, queued_at)
SELECT $1, i, r, rn, s, sn, su, 'queued', 'normal', k, 1, m, $9
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $10::text[])
    AS e (i, r, rn, s, sn, su, k, m)"""
JOBS = """
INSERT INTO jobs (tenant_id, id, kind, payload, priority, state, run_at, created_at)
SELECT $1, j, 'email.send', jsonb_build_object('email_id', i), 2, 'ready', $4, $4
FROM unnest($2::uuid[], $3::uuid[]) AS j (j, i)"""


class Monolith:
    """One database, one transaction per call."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, dsn: str, size: int) -> Monolith:
        """Create the schema and a pool."""
        pool = await asyncpg.create_pool(dsn, min_size=size, max_size=size)
        await pool.execute(SCHEMA)
        return cls(pool)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    async def send_emails(self, tenant_id: UUID, emails: Sequence[OutgoingEmail]) -> None:
        """Write bodies, rows and jobs of a batch in one transaction."""
        at = datetime.now(UTC)
        ids = [keys.new_id() for _ in emails]
        storage = [keys.storage_key() for _ in emails]
        hashes = [hashlib.sha256((e.text + e.html).encode()).hexdigest() for e in emails]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                CONTENT, tenant_id, storage, hashes, [e.text for e in emails], [e.html for e in emails], at,
                [len(e.text) + len(e.html) for e in emails],
            )  # fmt: skip
            await connection.execute(
                EMAILS, tenant_id, ids, [e.recipient for e in emails], [e.recipient_name for e in emails],
                [e.sender for e in emails], [e.sender_name for e in emails], [e.subject for e in emails], storage, at,
                [f"<{i}@sender.example>" for i in ids],
            )  # fmt: skip
            await connection.execute(JOBS, tenant_id, [uuid4() for _ in emails], ids, at)
