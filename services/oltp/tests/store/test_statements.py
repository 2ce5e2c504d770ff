"""Every named statement against the migrated schema, every constraint against its translation, and the plans that must
hold under row-level security."""

from __future__ import annotations

from importlib import resources
from uuid import UUID, uuid4

import asyncpg
import pytest
from services.oltp.tests.rows import make_tenant

from penguin_chassis.pool import Database
from penguin_chassis.queries import load
from penguin_devstack.roles import TierDatabase
from penguin_oltp.store import constraints

FILES = sorted(f.name for f in resources.files("penguin_oltp.store").iterdir() if f.name.endswith(".sql"))
LEADS = 20_000


@pytest.mark.parametrize("filename", FILES)
async def test_every_statement_is_one_the_schema_knows(filename: str, oltp_urls: TierDatabase) -> None:
    connection = await asyncpg.connect(oltp_urls.app_url)
    try:
        for name, query in load("penguin_oltp.store", filename).names().items():
            assert await connection.prepare(query), name
            # All but the looks at transactions and at the database's life, and the functions of the hot reads, name their tenant.
            assert (
                "tenant_id" in query
                or "FROM incarnation" in query
                or "pg_current_snapshot" in query
                or query.startswith("SELECT *  FROM hot")
                or ("hot_" in query)
            ), name
    finally:
        await connection.close()


async def test_every_constraint_has_its_meaning(oltp_urls: TierDatabase) -> None:
    connection = await asyncpg.connect(oltp_urls.owner_url)
    try:
        unique = await connection.fetch(
            "SELECT c.relname, i.indisprimary, t.relname AS of FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_class t ON t.oid = i.indrelid WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace"
        )
        foreign = await connection.fetch(
            "SELECT conname, cardinality(conkey) AS width, conrelid::regclass::text AS of FROM pg_constraint"
            " WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    # Written by the tier itself, by ON CONFLICT or along with their parent: no client can break them.
    own = {"tenant_users", "email_attempts", "email_event_tallies", "email_event_ids", "step_barrier", "outbox",
           "sagas", "saga_steps", "tier_tenants", "reconcile_runs", "reconcile_progress", "reconcile_findings", "legal_holds", "legal_hold_keys",
           "incarnation", "subject_keys", "erased_subjects", "erasures", "erasure_receipts", "subject_exports"}  # fmt: skip
    known = {
        r["relname"] for r in unique if r["of"] not in own and not r["of"].startswith(("email_event_ids", "schema_"))
    }
    assert known == {*constraints.UNIQUE, *constraints.PRIMARY}
    references = {r["conname"] for r in foreign if r["width"] > 1 and r["of"] not in own}
    assert references == set(constraints.FOREIGN)
    assert all(r["conname"].endswith("_tenant_id_fkey") for r in foreign if r["width"] == 1)


@pytest.fixture(scope="module")
async def crowd(db: Database, oltp_urls: TierDatabase) -> tuple[UUID, UUID, UUID]:
    """A tenant with many leads, a tenth of them the campaign's audience, of whom all but a hundred have the step's email.

    Tenant, campaign, step.
    """
    tenant, campaign, step = await make_tenant(db), uuid4(), uuid4()
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO campaigns (tenant_id, id, name, audience_list, status, created_at, updated_at)"
            " VALUES ($1, $2, 'Big', 'big', 'running', now(), now())", tenant, campaign,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO campaign_sequence_steps (tenant_id, id, campaign_id, step_order, step_type, subject_override,"
            " wait_duration_hours, condition_type, condition_value, is_active, created_at, updated_at)"
            " VALUES ($1, $2, $3, 1, 'email', '', 0, 'always', '', true, now(), now())", tenant, step, campaign,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO leads (tenant_id, id, email, first_name, last_name, company, list, custom_fields, status,"
            " created_at, updated_at) SELECT $1, lpad(to_hex(n), 32, '0')::uuid, 'Lead' || n || '@example.com', '', '',"
            " '', CASE WHEN n % 10 = 0 THEN 'big' ELSE 'other' END, '{}', 'active', now(), now()"
            " FROM generate_series(1, $2::integer) AS n", tenant, LEADS,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status, priority,"
            " content_storage_key, content_generation, campaign_id, step_id, lead_id, message_id, queued_at)"
            " SELECT $1, id, email, '', 'us@sender.example', '', '', 'sent', 'normal', 'k/' || id, 1, $2, $3, id, '',"
            " now() FROM leads WHERE tenant_id = $1 AND list = 'big' ORDER BY id LIMIT $4", tenant, campaign, step, LEADS // 10 - 100,
        )  # fmt: skip
    owner = await asyncpg.connect(oltp_urls.owner_url)
    try:
        await owner.execute("ANALYZE leads, emails, suppressions")
    finally:
        await owner.close()
    return tenant, campaign, step


async def plan(db: Database, tenant: UUID, query: str, *values: object) -> str:
    """How the application role runs the statement for the tenant."""
    literals = query
    for n, value in sorted(enumerate(values, 1), reverse=True):
        literals = literals.replace(f"${n}", str(value) if isinstance(value, int) else f"'{value}'")
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {literals}")
    return "\n".join(row[0] for row in rows)


async def test_pending_recipients_are_probed_one_by_one(db: Database, crowd: tuple[UUID, UUID, UUID]) -> None:
    tenant, _, step = crowd
    query = load("penguin_oltp.store", "campaigns.sql").pending
    told = await plan(db, tenant, query, tenant, "big", step, UUID(int=0), 500, 1_000)
    assert "Index Scan using leads_list" in told
    assert "emails_step_lead" in told
    assert "suppressions_address" in told or "Seq Scan on suppressions" in told  # empty: either is as good
    assert "Seq Scan on emails" not in told
    assert "Hash" not in told


async def test_addresses_are_found_by_their_index(db: Database, crowd: tuple[UUID, UUID, UUID]) -> None:
    tenant, campaign, _ = crowd
    leads, emails = load("penguin_oltp.store", "leads.sql"), load("penguin_oltp.store", "emails.sql")
    told = await plan(db, tenant, leads.list_by_email, tenant, UUID(int=0), 100, "lead7@EXAMPLE.com", "")
    assert "leads_email" in told
    told = await plan(db, tenant, emails.list, tenant, UUID(int=0), campaign, "", "lead7@EXAMPLE.com", 100)
    assert "emails_recipient" in told
    campaigns = load("penguin_oltp.store", "campaigns.sql")
    told = await plan(db, tenant, campaigns.open_emails, tenant, campaign, 10_000)
    assert "emails_campaign" in told


async def test_a_thread_and_a_day_are_found_by_their_index(db: Database) -> None:
    tenant = await make_tenant(db)
    async with db.tenant(tenant) as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        inbox, ledger = load("penguin_oltp.store", "inbox.sql"), load("penguin_oltp.store", "ledger.sql")
        for query, values, index in [
            (inbox.list_thread, (tenant, UUID(int=0), 100, "<t@b.example>", ""), "inbox_message_refs_thread"),
            (ledger.count_day, (tenant, "2026-01-01", "2026-01-02"), "email_event_tallies_day"),
            (ledger.changed_days, (tenant, 1, 2), "email_event_tallies_changed"),
        ]:
            literals = query
            for n, value in sorted(enumerate(values, 1), reverse=True):
                literals = literals.replace(f"${n}", str(value) if isinstance(value, int) else f"'{value}'")
            rows = await connection.fetch(f"EXPLAIN {literals}")
            assert index in "\n".join(row[0] for row in rows)
