"""What each of a tier's four roles may do, tried on a real cluster."""

from __future__ import annotations

from collections.abc import Iterator

import asyncpg
import pytest

from penguin_devstack.postgres import PostgresCluster, temporary_cluster
from penguin_devstack.roles import ProvisioningError, TierDatabase, TierPasswords, provision_tier


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    with temporary_cluster() as started:
        yield started


@pytest.fixture(scope="module")
async def tier(cluster: PostgresCluster) -> TierDatabase:
    database = await provision_tier(cluster, "oltp", TierPasswords.generate())
    await run(
        database.owner_url,
        "CREATE TABLE things (id int GENERATED ALWAYS AS IDENTITY, name text);"
        "CREATE TABLE unnamed (id int);"
        "GRANT SELECT, INSERT, UPDATE, DELETE ON things TO oltp_app, oltp_maintenance;"
        "GRANT SELECT ON things TO oltp_readonly;"
        "CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42'",
    )
    return database


async def run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement, timeout=10)
    finally:
        await connection.close(timeout=5)


async def test_a_table_is_closed_to_all_until_its_migration_grants_it(tier: TierDatabase) -> None:
    for url in (tier.app_url, tier.maintenance_url, tier.readonly_url):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(url, "SELECT * FROM unnamed")


async def test_app_and_maintenance_have_dml_where_it_is_granted(tier: TierDatabase) -> None:
    for url in (tier.app_url, tier.maintenance_url):
        await run(url, "INSERT INTO things (name) VALUES ('a'); UPDATE things SET name = 'b'; DELETE FROM things")
        await run(url, "SELECT answer()")


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE mine ()", "DROP TABLE things", "TRUNCATE things", "CREATE SCHEMA x"]
)
async def test_only_the_owner_changes_the_schema(tier: TierDatabase, statement: str) -> None:
    for url in (tier.app_url, tier.maintenance_url, tier.readonly_url):
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
            await run(url, statement)


async def test_readonly_reads_and_writes_nothing(tier: TierDatabase) -> None:
    await run(tier.readonly_url, "SELECT count(*) FROM things")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(tier.readonly_url, "BEGIN READ WRITE; DELETE FROM things")


async def test_no_role_bypasses_row_security_or_owns_more_than_it_should(
    cluster: PostgresCluster, tier: TierDatabase
) -> None:
    connection = await asyncpg.connect(cluster.superuser_dsn(tier.database), timeout=10)
    try:
        roles = await connection.fetch(
            "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb AS strong, rolcanlogin"
            " FROM pg_roles WHERE rolname LIKE 'oltp%' ORDER BY rolname"
        )
        names = [role["rolname"] for role in roles]
        owner = await connection.fetchval(
            "SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()"
        )
        schema_owner = await connection.fetchval(
            "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'public'"
        )
    finally:
        await connection.close(timeout=5)
    assert names == ["oltp_app", "oltp_maintenance", "oltp_owner", "oltp_readonly"]
    assert not any(role["strong"] for role in roles)
    assert all(role["rolcanlogin"] for role in roles)
    assert (owner, schema_owner) == ("oltp_owner", "oltp_owner")


async def test_another_tiers_roles_cannot_connect(cluster: PostgresCluster, tier: TierDatabase) -> None:
    other = await provision_tier(cluster, "content")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(other.app_url.replace("penguin_content", tier.database), "SELECT 1")


async def test_provisioning_again_keeps_data_and_sets_the_given_passwords(
    cluster: PostgresCluster, tier: TierDatabase
) -> None:
    await run(tier.app_url, "INSERT INTO things (name) VALUES ('kept')")
    again = await provision_tier(cluster, "oltp", TierPasswords("o", "it's", "m", "r"))
    await run(again.app_url, "SELECT 1 / count(*) FROM things")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await run(tier.app_url, "SELECT 1")
    assert "it's" not in repr(again)


async def test_unusable_cluster_or_name_is_an_error(cluster: PostgresCluster) -> None:
    with pytest.raises(ValueError, match="not a tier's name"):
        await provision_tier(cluster, 'x"; DROP DATABASE postgres')
    cluster.stop()
    try:
        with pytest.raises(ProvisioningError, match="refused"):
            await provision_tier(cluster, "late")
    finally:
        cluster.start()
