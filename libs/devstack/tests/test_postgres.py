"""The embedded PostgreSQL on real processes: as root and not, crashed, frozen, with stale leftovers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from penguin_devstack import pgbinaries, pgfiles
from penguin_devstack.guardian import guarded_directory
from penguin_devstack.ports import is_free
from penguin_devstack.postgres import PostgresCluster, PostgresError, temporary_cluster
from penguin_devstack.processes import ProcessId, wait_gone


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    with temporary_cluster(durable=True) as started:
        yield started


async def value(cluster: PostgresCluster, query: str) -> object:
    connection = await asyncpg.connect(cluster.superuser_dsn(), timeout=10)
    try:
        return await connection.fetchval(query, timeout=10)
    finally:
        await connection.close(timeout=5)


async def test_is_durable_private_and_loopback_only(cluster: PostgresCluster) -> None:
    assert await value(cluster, "SELECT current_setting('fsync') || current_setting('synchronous_commit')") == "onon"
    assert await value(cluster, "SHOW listen_addresses") == "127.0.0.1"
    assert await value(cluster, "SHOW server_encoding") == "UTF8"
    assert await value(cluster, "SELECT lower('ÄÖÜ')") == "äöü"
    assert await value(cluster, "SHOW TimeZone") == "UTC"
    assert cluster.data_dir.stat().st_mode & 0o077 == 0
    assert await value(cluster, "SELECT current_setting('data_directory')") == str(cluster.data_dir)
    # Nobody gets in without the password.
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(cluster.dsn("postgres", "guess", "postgres"), timeout=5)


async def test_postgres_does_not_run_as_root(cluster: PostgresCluster) -> None:
    process = cluster.process
    assert process is not None
    with pytest.raises(asyncpg.PostgresError, match="ermission denied"):
        # A capability of root would read this file whatever its mode and owner say.
        await value(cluster, f"SELECT pg_read_file('{_unreadable(cluster.data_dir)}')")


def _unreadable(directory: Path) -> Path:
    path = directory.parent / "unreadable"
    path.write_text("secret")
    path.chmod(0)
    return path


async def test_create_and_drop_database(cluster: PostgresCluster) -> None:
    url = await cluster.create_database('odd "name"')
    connection = await asyncpg.connect(url, timeout=10)
    assert await connection.fetchval("SELECT current_database()") == 'odd "name"'
    # An open session does not keep a database alive.
    await cluster.drop_database('odd "name"')
    connection.terminate()
    await cluster.drop_database('odd "name"')


async def test_crash_loses_no_commit_and_restarts_on_its_port(cluster: PostgresCluster) -> None:
    port = cluster.port
    await value(cluster, "CREATE TABLE kept (x int)")
    await value(cluster, "INSERT INTO kept VALUES (42)")
    cluster.kill()
    assert not cluster.running
    assert is_free(port)
    assert (cluster.data_dir / "postmaster.pid").exists()
    cluster.start()
    assert cluster.port == port
    assert await value(cluster, "SELECT x FROM kept") == 42


async def test_backends_orphaned_by_a_lone_postmaster_do_not_block_the_next_start(cluster: PostgresCluster) -> None:
    connection = await asyncpg.connect(cluster.superuser_dsn(), timeout=10)
    backend = ProcessId.of(await connection.fetchval("SELECT pg_backend_pid()"))
    postmaster = cluster.process
    assert postmaster is not None
    assert backend is not None
    os.kill(backend.pid, signal.SIGSTOP)
    os.kill(postmaster.pid, signal.SIGKILL)
    assert wait_gone([postmaster], 5)
    assert backend.alive
    cluster.start()
    assert not backend.alive
    assert await value(cluster, "SELECT 1") == 1
    connection.terminate()


async def test_recycled_pid_in_the_lock_file_is_no_server(cluster: PostgresCluster) -> None:
    cluster.kill()
    lock_file = cluster.data_dir / "postmaster.pid"
    lines = lock_file.read_text().splitlines()
    lock_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert not cluster.running
    cluster.start()
    assert await value(cluster, "SELECT 1") == 1


async def test_freeze_keeps_connections_and_thaw_revives_them(cluster: PostgresCluster) -> None:
    connection = await asyncpg.connect(cluster.superuser_dsn(), timeout=10)
    cluster.freeze()
    question = asyncio.ensure_future(connection.fetchval("SELECT 7"))
    _, pending = await asyncio.wait([question], timeout=0.2)
    assert pending
    cluster.thaw()
    assert await asyncio.wait_for(question, 5) == 7
    await connection.close(timeout=5)


def test_frozen_server_can_be_stopped_and_another_object_may_do_it(cluster: PostgresCluster) -> None:
    other_view = PostgresCluster(cluster.data_dir)
    assert other_view.port == cluster.port
    assert other_view.running
    with pytest.raises(PostgresError, match="already running"):
        other_view.start()
    cluster.freeze()
    other_view.stop()
    assert not cluster.running
    assert not list(pgfiles.socket_dir(cluster.data_dir).glob(".s.PGSQL.*"))
    cluster.start()


def test_wanted_port_in_use_is_refused_with_the_reason(cluster: PostgresCluster, tmp_path: Path) -> None:
    with guarded_directory("penguin-pg-") as directory:
        second = PostgresCluster(directory / "second", cluster.port)
        template = PostgresCluster(directory / "template")
        template.init()
        second.init(template=template.data_dir)
        with pytest.raises(PostgresError, match=r"[Aa]ddress already in use"):
            second.start()
        chooses = PostgresCluster(directory / "second")
        chooses.start()
        try:
            assert chooses.port != cluster.port
            assert chooses.superuser_password() == template.superuser_password()
        finally:
            chooses.stop()


def test_long_paths_get_a_short_socket_directory() -> None:
    with guarded_directory("penguin-pg-") as directory:
        cluster = PostgresCluster(directory / ("long" * 25) / "data")
        cluster.init()
        cluster.init()
        cluster.start()
        sockets = pgfiles.socket_dir(cluster.data_dir)
        assert sockets != cluster.data_dir
        assert sockets.stat().st_mode & 0o077 == 0
        cluster.stop()
        assert not sockets.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to fall back to")
async def test_root_without_user_namespaces_runs_it_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    pgbinaries.launcher.cache_clear()
    try:
        try:
            launcher = pgbinaries.launcher(pgbinaries.bin_dir())
        except pgbinaries.PostgresUnavailableError as refused:
            # Programs below a directory closed to others cannot be run by another user: then the reasons are named.
            assert "refuses to run as root" in str(refused)  # noqa: PT017
            assert "ermission denied" in str(refused)  # noqa: PT017
            return
        assert launcher.owner is not None
        with temporary_cluster() as cluster:
            process = cluster.process
            assert process is not None
            assert psutil.Process(process.pid).uids().effective == launcher.owner[0]
            assert await value(cluster, "SELECT 1") == 1
    finally:
        pgbinaries.launcher.cache_clear()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs every other test that way")
def test_ordinary_user_needs_no_detour() -> None:
    program = (
        "import os\nfrom penguin_devstack import pgbinaries\nfrom penguin_devstack.postgres import temporary_cluster\n"
        "assert os.geteuid() != 0\nassert pgbinaries.launcher(pgbinaries.bin_dir()).prefix == ()\n"
        "with temporary_cluster() as cluster: assert cluster.ready\n"
    )
    subprocess.run(["unshare", "--user", "--map-user=1000", sys.executable, "-c", program], check=True, timeout=60)


def test_everything_goes_when_the_owner_is_killed() -> None:
    program = (
        "import sys\nfrom penguin_devstack.postgres import temporary_cluster\n"
        "with temporary_cluster() as c:\n print(c.process.pid, c.data_dir, flush=True)\n sys.stdin.read()\n"
    )
    # Frozen servers must go as well.
    program = program.replace("sys.stdin", "c.freeze(); sys.stdin")
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid, _, data_dir = owner.stdout.readline().decode().strip().partition(" ")
        server = ProcessId.of(int(pid))
        assert server is not None
        owner.kill()
    assert wait_gone([server], 10)
    deadline = time.monotonic() + 10
    while Path(data_dir).parent.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(data_dir).parent.exists()


def test_a_temporary_cluster_leaves_nothing() -> None:
    with temporary_cluster({"max_connections": "20"}) as cluster:
        process, directory = cluster.process, cluster.data_dir.parent
        assert process is not None
    assert not process.alive
    assert not directory.exists()
    assert is_free(cluster.port)
