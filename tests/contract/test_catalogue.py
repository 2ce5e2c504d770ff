"""Tenancy as the databases' own catalogues have it: every table with a tenant_id is walled off, in every tier.

Each table is given one row of one tenant; then every role is tried with no tenant, with that tenant, and with another.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import pytest

from penguin_devstack.roles import TierDatabase
from penguin_testkit.databases import Databases

TIERS = ("oltp", "content", "olap", "queue", "notifications")

TABLES = """
SELECT c.oid::regclass::text AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced, c.relispartition,
    c.relkind::text AS kind,
    (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
    (SELECT bool_or(r.rolname = $1 || '_app') FROM pg_policy p, unnest(p.polroles) AS role_id
        JOIN pg_roles r ON r.oid = role_id WHERE p.polrelid = c.oid) AS for_app,
    (SELECT attnotnull FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id') AS required
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
ORDER BY 1"""
WITHOUT_TENANT = """
SELECT c.oid::regclass::text AS name FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')"""
COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type
FROM pg_attribute a
WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef
  AND a.attidentity = '' AND a.attgenerated = ''"""
KEY_COLUMNS = """
SELECT a.attrelid::regclass::text || '.' || a.attname AS name
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attname ~ 'keys?($|_)'"""
# What the views by which reconcile sees keys are made of.
KEY_SOURCES = """
SELECT table_name || '.' || column_name AS name FROM information_schema.view_column_usage
WHERE view_schema = 'public' AND view_name = 'storage_keys'"""
SOURCE_NAMES = "SELECT pg_get_viewdef(to_regclass('storage_keys'))"
# Columns named like keys that hold none of Content's. (A saga's step journals what it is about to mint: what refers to it
# is the row that the step makes.)
NO_STORAGE_KEYS = {
    "step_barrier.key", "emails.recipient_key", "leads.email_key", "suppressions.address_key",
    "email_accounts.vault_key_path", "inbox_message_refs.mailbox_key", "content_objects.key_id", "blobs.key_id",
    "saga_steps.keys", "unique_keys.key", "wakes.ordering_key", "queues.key_rate_jobs", "queues.key_rate_ms", "queues.key_rate_burst",
    "admin_system_events.dedupe_key",
    # It bars an erasure, and is no reference: what it names may be gone.
    "legal_holds.storage_key",
    "legal_holds.subject_key",
    "legal_hold_keys.storage_key",
    *(f"{jobs}.{name}" for jobs in ("jobs", "dead_jobs", "completed_jobs") for name in ("ordering_key", "rate_key")),
}  # fmt: skip
# A part of the content whose key it bears, and gone with it.
PARTS = {"attachments.storage_key"}
CHECKS = "SELECT conname, conrelid::regclass::text AS name FROM pg_constraint WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace AND conparentid = 0 AND conrelid <> 0"
VALUES = {
    "uuid": "gen_random_uuid()",
    "text": "'x'",
    "text[]": "'{}'",
    "integer": "1",
    "smallint": "1",
    "bigint": "1",
    "boolean": "false",
    "bytea": "'x'",
    "jsonb": "'{}'",
    "timestamp with time zone": "now()",
    "date": "current_date",
    "integer[]": "'{}'",
}


@dataclass
class Walled:
    """A tier's database in which every table holds one row of `owner`."""

    urls: TierDatabase
    owner: UUID
    tables: list[asyncpg.Record]

    @property
    def roots(self) -> list[str]:
        """Tables that are written to; partitions are reached through them."""
        return [t["name"] for t in self.tables if not t["relispartition"]]


@pytest.fixture(scope="module", params=TIERS)
async def walled(request: pytest.FixtureRequest, databases: Databases) -> Walled:
    tier: str = request.param
    urls = await databases.clone(tier)
    owner = uuid4()
    root = await asyncpg.connect(databases.cluster.superuser_dsn(urls.database))
    try:
        tables = await root.fetch(TABLES, tier)
        for check in await root.fetch(CHECKS):
            await root.execute(f'ALTER TABLE {check["name"]} DROP CONSTRAINT IF EXISTS "{check["conname"]}" CASCADE')
        for table in tables:
            if not table["relispartition"]:
                columns = {c["name"]: VALUES[c["type"]] for c in await root.fetch(COLUMNS, table["name"])}
                columns["tenant_id"] = f"'{owner}'"
                await root.execute(
                    f"INSERT INTO {table['name']} ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"
                )
    finally:
        await root.close()
    return Walled(urls, owner, tables)


async def test_every_table_with_a_tenant_is_protected(walled: Walled) -> None:
    assert len(walled.tables) >= 4
    for table in walled.tables:
        assert table["enabled"], f"{table['name']}: row-level security is off"
        assert table["forced"], f"{table['name']}: not forced, the owner passes by"
        assert table["policies"] >= 1, f"{table['name']}: no policy"
        assert table["for_app"], f"{table['name']}: no policy for the app role"
        assert table["required"], f"{table['name']}: tenant_id may be null"


async def test_tables_without_a_tenant_are_known(databases: Databases, walled: Walled) -> None:
    root = await asyncpg.connect(databases.cluster.superuser_dsn(walled.urls.database))
    try:
        names = {row["name"] for row in await root.fetch(WITHOUT_TENANT)}
    finally:
        await root.close()
    # Which life of the database it is concerns nobody alone.
    # Kinds of jobs are named after handlers, and queues by the platform's people, to whom alone they are told.
    # What is known of the workers as a whole is a pair of sums.
    assert names <= {"schema_migrations", "incarnation", "kinds", "queues", "fleet"}, (
        f"neither tenant_id nor listed here: {names}"
    )


async def test_every_column_with_storage_keys_is_a_source_of_reconcile(databases: Databases, walled: Walled) -> None:
    """A key that reconcile does not see referred to would be taken for an orphan, and what it names deleted."""
    root = await asyncpg.connect(databases.cluster.superuser_dsn(walled.urls.database))
    try:
        named = {row["name"] for row in await root.fetch(KEY_COLUMNS)}
        seen = {row["name"] for row in await root.fetch(KEY_SOURCES)}
        view = await root.fetchval(SOURCE_NAMES)
    finally:
        await root.close()
    unseen = named - seen - NO_STORAGE_KEYS - PARTS
    assert not unseen, f"add it to the view storage_keys and the tier's KEY_SOURCES, or list it here: {unseen}"
    assert bool(seen & named) == (walled.urls.tier in {"oltp", "content"})
    sources = getattr(importlib.import_module(f"penguin_{walled.urls.tier}.app"), "KEY_SOURCES", ())
    assert {source.name for source in sources} == set(re.findall(r"'(\w+)'::text", view or ""))


@pytest.mark.parametrize("role", ["app_url", "readonly_url", "owner_url"])
async def test_without_a_tenant_there_are_no_rows(walled: Walled, role: str) -> None:
    connection = await asyncpg.connect(getattr(walled.urls, role))
    try:
        for name in walled.roots:
            assert await connection.fetchval(f"SELECT count(*) FROM {name}") == 0, f"{name} as {role}"
    finally:
        await connection.close()


async def test_each_tenant_sees_its_own_rows_only(walled: Walled) -> None:
    connection = await asyncpg.connect(walled.urls.app_url)
    try:
        for tenant, rows in ((walled.owner, 1), (uuid4(), 0)):
            for name in walled.roots:
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL app.current_tenant_id = '{tenant}'")
                    assert await connection.fetchval(f"SELECT count(*) FROM {name}") == rows, name
    finally:
        await connection.close()


async def test_another_tenant_changes_and_plants_nothing(walled: Walled) -> None:
    connection = await asyncpg.connect(walled.urls.app_url)
    stranger = uuid4()
    try:
        for name in walled.roots:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"SET LOCAL app.current_tenant_id = '{stranger}'")
            assert await connection.execute(f"DELETE FROM {name}") == "DELETE 0", name
            changed = await connection.execute(f"UPDATE {name} SET tenant_id = '{stranger}'")
            assert changed == "UPDATE 0", name
            await transaction.rollback()
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"SET LOCAL app.current_tenant_id = '{walled.owner}'")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"UPDATE {name} SET tenant_id = '{stranger}'")
            await transaction.rollback()
    finally:
        await connection.close()


async def test_partitions_are_reached_through_their_parent_only(walled: Walled) -> None:
    partitions = [t["name"] for t in walled.tables if t["relispartition"]]
    connection = await asyncpg.connect(walled.urls.app_url)
    try:
        for name in partitions:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT * FROM {name}")
    finally:
        await connection.close()


async def test_the_app_role_cannot_step_out_of_its_wall(walled: Walled) -> None:
    connection = await asyncpg.connect(walled.urls.app_url)
    try:
        for statement in (
            "SET row_security = off; SELECT * FROM outbox",
            "SET ROLE " + walled.urls.tier + "_maintenance",
            "ALTER TABLE outbox DISABLE ROW LEVEL SECURITY",
            "CREATE TABLE loot (id integer)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
