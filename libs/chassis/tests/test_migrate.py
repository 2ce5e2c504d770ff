"""Migrations: in order, once, by one runner at a time, and never changed afterwards; and queries by their names."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from penguin_chassis import faults, migrate, queries
from penguin_chassis.errors import as_fault
from penguin_chassis.main import run
from penguin_chassis.migrate import Migration, MigrationError
from penguin_chassis.pool import database
from penguin_chassis.settings import PoolSettings, TelemetrySettings
from penguin_devstack.postgres import PostgresCluster
from penguin_devstack.roles import TierDatabase
from penguin_testkit.databases import Databases

FIRST = Migration(1, "first", "CREATE TABLE one (id int); INSERT INTO one VALUES (1)")
SECOND = Migration(2, "second", "CREATE TABLE two AS SELECT id + 1 AS id FROM one")


@pytest.fixture
async def bare(cluster: PostgresCluster, databases: Databases) -> str:
    """The owner's URL of an empty database."""
    template = await databases.template("queue")
    name = f"bare_{time.monotonic_ns()}"
    await cluster.create_database(name, owner="queue_owner")
    return template.owner_url.rsplit("/", 1)[0] + f"/{name}"


async def fetch(url: str, query: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> str:
    """A package of .sql files, importable."""
    name = f"migrations_{tmp_path.name}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    for file, text in files.items():
        (folder / f"{file}.sql").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop(name, None)
    return name


def test_files_are_read_in_order_with_their_includes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = migrate.load(
        package(
            tmp_path, monkeypatch, **{
                "0002_more": "SELECT 2;", "0001_base": "-- include: penguin_chassis.sql/outbox.sql\nSELECT 1;",
            },
        )
    )  # fmt: skip
    assert [(m.version, m.name) for m in found] == [(1, "base"), (2, "more")]
    assert "-- name: lease" in found[0].text
    assert found[0].text.endswith("SELECT 1;")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"0001_a": "", "0003_c": ""}, "without a gap"),
        ({"0002_b": ""}, "without a gap"),
        ({"0001_a": "", "0001_b": ""}, "without a gap"),
        ({"first": ""}, "NNNN_name"),
    ],
)
def test_a_gap_or_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], words: str
) -> None:
    with pytest.raises(MigrationError, match=words):
        migrate.load(package(tmp_path, monkeypatch, **files))


async def test_migrations_are_applied_in_order_and_once(bare: str) -> None:
    assert await migrate.migrate(bare, "queue", [FIRST]) == 1
    assert await migrate.migrate(bare, "queue", [FIRST, SECOND]) == 1
    assert await migrate.migrate(bare, "queue", [FIRST, SECOND]) == 0
    # Older code, run against a newer database, leaves it alone.
    assert await migrate.migrate(bare, "queue", [FIRST]) == 0
    assert await fetch(bare, "SELECT id FROM two") == [(2,)]
    assert await fetch(bare, "SELECT version, name FROM schema_migrations ORDER BY 1") == [(1, "first"), (2, "second")]


async def test_a_changed_migration_is_refused(bare: str) -> None:
    await migrate.migrate(bare, "queue", [FIRST])
    with pytest.raises(MigrationError, match="1 was changed"):
        await migrate.migrate(bare, "queue", [Migration(1, "first", FIRST.text + " "), SECOND])
    assert await fetch(bare, "SELECT to_regclass('two') IS NULL") == [(True,)]


async def test_a_failing_migration_leaves_nothing_and_those_before_it_stand(bare: str) -> None:
    broken = Migration(2, "broken", "CREATE TABLE two (id int); SELECT no_such_function()")
    with pytest.raises(MigrationError, match=r"0002_broken failed: function no_such_function\(\) does not exist"):
        await migrate.migrate(bare, "queue", [FIRST, broken])
    assert await fetch(bare, "SELECT version FROM schema_migrations") == [(1,)]
    assert await fetch(bare, "SELECT to_regclass('two') IS NULL") == [(True,)]
    assert await migrate.migrate(bare, "queue", [FIRST, SECOND]) == 1


async def test_what_data_said_stays_out_of_the_error(bare: str) -> None:
    unique = Migration(2, "unique", "INSERT INTO one VALUES (4711), (4711); CREATE UNIQUE INDEX ON one (id)")
    with pytest.raises(MigrationError) as caught:
        await migrate.migrate(bare, "queue", [FIRST, unique])
    assert "4711" not in str(caught.value)


async def test_two_runners_at_once_apply_each_migration_once(bare: str) -> None:
    slow = Migration(1, "slow", "CREATE TABLE one (id int); SELECT pg_sleep(0.5)")
    counts = await asyncio.gather(*(migrate.migrate(bare, "queue", [slow]) for _ in range(3)))
    assert sorted(counts) == [0, 0, 1]


async def test_a_runner_waits_longer_for_another_one_than_for_a_lock(
    bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "100ms")
    slow = Migration(1, "slow", "CREATE TABLE one (id int); SELECT pg_sleep(0.4)")
    assert sorted(await asyncio.gather(*(migrate.migrate(bare, "queue", [slow]) for _ in range(2)))) == [0, 1]
    monkeypatch.setattr(migrate, "RUNNER_TIMEOUT", "100ms")
    holder = await asyncpg.connect(bare)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", migrate._LOCK)
        with pytest.raises(MigrationError, match="another runner"):
            await migrate.migrate(bare, "queue", [slow])
    finally:
        await holder.close()


async def test_a_table_in_use_is_not_waited_for(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "200ms")
    await migrate.migrate(bare, "queue", [FIRST])
    alter = Migration(2, "alter", "ALTER TABLE one ADD COLUMN more int")
    reader = await asyncpg.connect(bare)
    try:
        await reader.execute("BEGIN; SELECT * FROM one")
        started = time.monotonic()
        with pytest.raises(MigrationError, match="did not get its locks"):
            await migrate.migrate(bare, "queue", [FIRST, alter])
        assert time.monotonic() - started < 3
    finally:
        await reader.close()
    assert await migrate.migrate(bare, "queue", [FIRST, alter]) == 1


async def test_a_database_that_refuses_or_is_away_is_said_in_words(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "ATTEMPTS", 1)
    with pytest.raises(MigrationError, match="does not answer"):
        await migrate.migrate("postgresql://queue_owner:x@127.0.0.1:9/queue", "queue", [FIRST])
    with pytest.raises(MigrationError, match="refuses the owner"):
        await migrate.migrate(bare.replace("queue_owner:", "queue_owner:wrong"), "queue", [FIRST])


def test_the_command_says_what_went_wrong_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migrate, "ATTEMPTS", 1)

    def never() -> None:
        pytest.fail("it served")

    status = run(
        "queue",
        serving=never,  # type: ignore[arg-type]
        owner_url=lambda: "postgresql://queue_owner:geheim@127.0.0.1:9/queue",
        migrations_package=package(tmp_path, monkeypatch, **{"0001_a": "SELECT 1"}),
        telemetry_settings=lambda: TelemetrySettings("queue"),
        argv=["migrate"],
    )
    said = capfd.readouterr()
    assert status == 1
    assert "the queue database does not answer" in said.err
    assert "geheim" not in said.err + said.out
    assert "Traceback" not in said.err


async def test_the_chassis_tables_are_closed_to_whoever_has_no_context(urls: TierDatabase) -> None:
    for url in (urls.app_url, urls.readonly_url):
        for table in ("outbox", "step_barrier"):
            assert await fetch(url, f"SELECT count(*) FROM {table}") == [(0,)]
    for function in (
        "ensure_partitions('outbox', 'day', '2026-01-01', '2026-01-02')",
        "drop_partitions('outbox', '2026-01-01')",
        "adopt_tenant_table('outbox')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await fetch(urls.app_url, f"SELECT {function}")


def test_queries_go_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = package(
        tmp_path, monkeypatch, q="-- about the file\n-- name: one\n-- what it does\nSELECT 1;\n\n-- name: two\nSELECT 2"
    )
    found = queries.load(name, "q.sql")
    assert found.names() == {"one": "-- what it does\nSELECT 1", "two": "SELECT 2"}
    assert found.two == "SELECT 2"
    with pytest.raises(AttributeError, match="no query named three"):
        _ = found.three


@pytest.mark.parametrize("text", ["SELECT 1", "", "-- name: Bad Name\nSELECT 1"])
def test_a_file_without_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(ValueError, match="no named query"):
        queries.load(package(tmp_path, monkeypatch, q=text), "q.sql")


def test_a_name_given_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = package(tmp_path, monkeypatch, q="-- name: one\nSELECT 1;\n-- name: one\nSELECT 2")
    with pytest.raises(ValueError, match="names one twice"):
        queries.load(name, "q.sql")


async def test_every_query_of_the_chassis_can_be_prepared(urls: TierDatabase) -> None:
    connection = await asyncpg.connect(urls.maintenance_url)
    try:
        for file in ("barrier.sql", "outbox.sql"):
            for text in queries.load("penguin_chassis.sql", file).names().values():
                await connection.prepare(text)
    finally:
        await connection.close()


async def test_what_was_planned_before_a_migration_is_asked_for_again(databases: Databases, tenant: UUID) -> None:
    urls = await databases.clone("oltp")
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as db:

        async def look() -> None:
            async with db.tenant(tenant) as connection:
                await connection.fetch("SELECT * FROM outbox WHERE tenant_id = $1", tenant)

        async with db.tenant(tenant), db.tenant(tenant):
            pass  # both connections are open
        for _ in range(4):
            await asyncio.gather(look(), look())
        await fetch(urls.owner_url, "ALTER TABLE outbox ADD COLUMN note text")
        told: list[faults.Fault | None] = []
        for _ in range(6):
            try:
                await look()
            except Exception as error:  # noqa: BLE001 - as the gate sees it
                told.append(as_fault(error))
        # Nobody is told of a defect; asked again, it is done.
        assert [type(each) for each in told] == [faults.Unavailable] * len(told)
        assert 1 <= len(told) <= 2
        await look()
