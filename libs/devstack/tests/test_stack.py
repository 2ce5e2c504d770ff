"""The local stack as its own supervising process. Services, relay and worker are stand-ins of the same module names, so
that this library is tested without them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from penguin_devstack import orphans
from penguin_devstack.guardian import guarded_directory
from penguin_devstack.issuer import TIERS
from penguin_devstack.layout import Layout, StackOptions
from penguin_devstack.pgfiles import live_postmaster, socket_dir
from penguin_devstack.probes import serves_grpc
from penguin_devstack.stack import LocalStack, NeverUpError, StackError

TIER = """
import asyncio, os, sys, asyncpg, grpc.aio, signal
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
NAME = "{tier}".upper()
async def migrate():
    connection = await asyncpg.connect(os.environ[NAME + "_OWNER_DB_URL"])
    await connection.execute("CREATE TABLE IF NOT EXISTS runs (at timestamptz DEFAULT now())")
    await connection.execute("GRANT SELECT ON runs TO PUBLIC")
    await connection.execute("INSERT INTO runs DEFAULT VALUES")
    await connection.close()
async def serve():
    assert NAME + "_OWNER_DB_URL" not in os.environ
    for name in ("PENGUIN_JWKS_PATH", "QUEUE_REDIS_URL", "OTEL_SERVICE_NAME", NAME + "_MAINTENANCE_DB_URL"):
        assert os.environ[name]
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    servicer = health.aio.HealthServicer()
    await servicer.set("readiness", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(os.environ[NAME + "_LISTEN"])
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(0)
asyncio.run(migrate() if sys.argv[1] == "migrate" else serve())
"""
CLIENT = """
import os, time, urllib.request
assert os.environ["SMTP_PORT"] and os.environ["QUEUE_ADDR"] and open(os.environ["PENGUIN_WORKLOAD_CREDENTIAL_PATH"]).read()
print("at work", flush=True)
time.sleep(600)
"""


def stand_ins(directory: Path) -> str:
    for tier in TIERS:
        _module(directory / f"penguin_{tier}" / "__main__.py", TIER.replace("{tier}", tier))
    _module(directory / "penguin_orchestrator" / "relay.py", CLIENT)
    _module(directory / "penguin_worker" / "__main__.py", CLIENT)
    return str(directory)


def _module(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(text)


@asynccontextmanager
async def local_stack(root: Path, **options: Any) -> AsyncIterator[LocalStack]:
    stack = LocalStack(root, tied_to_caller=True, **options)
    try:
        await stack.up()
        yield stack
    finally:
        await stack.down()
        assert_nothing_left(root)


def assert_nothing_left(root: Path) -> None:
    assert orphans.marked(root) == []
    data_dirs = [root / "postgres" / tier for tier in TIERS]
    assert [path for path in data_dirs if live_postmaster(path)] == []
    assert [path for path in data_dirs if socket_dir(path) != path and socket_dir(path).exists()] == []
    inside = [
        process.cwd() for process in psutil.process_iter(["cwd"]) if str(process.info["cwd"]).startswith(str(root))
    ]
    assert inside == []
    for port in json.loads((root / "ports.json").read_text()).values():
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0


def _caller(argv: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.02)


async def fetch(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(query, timeout=10)
    finally:
        await connection.close(timeout=5)


@pytest.mark.heavy
async def test_whole_stack_comes_up_in_order_and_keeps_its_data(tmp_path: Path) -> None:
    root, path = tmp_path / "local", stand_ins(tmp_path / "standins")
    names = [name for tier in TIERS for name in (tier, f"migrate-{tier}")] + ["relay", "worker", "worker-2"]
    options: dict[str, Any] = {"workers": 2, "environment": {name: {"PYTHONPATH": path} for name in names}}
    told: list[tuple[str, str]] = []
    stack = LocalStack(root, tied_to_caller=True, **options)
    try:
        state = await stack.up(lambda name, status: told.append((name, status)))
        assert {component.status for component in state.components.values()} == {"ready", "done"}
        assert told.index(("oltp", "ready")) > told.index(("migrate-oltp", "done"))
        for tier in TIERS:
            assert await serves_grpc(int(stack.environment()[f"{tier.upper()}_ADDR"].rpartition(":")[2]))
            database = stack.database(tier)
            # What the owner's migration made, the app may read; and the row shows on which run it was made.
            assert await fetch(database.app_url, "SELECT count(*) FROM runs") == 1
        for client in ("relay", "worker", "worker-2"):
            assert "at work" in stack.log_path(client).read_text()
        # Up again changes nothing; with other parts it is refused.
        assert (await stack.up()).supervisor == state.supervisor
        with pytest.raises(StackError, match="other options"):
            await LocalStack(root, with_workers=False).up()
        assert not any("secret" in text or "_owner:" in text for text in [(root / "stack.json").read_text()])
    finally:
        begun = time.monotonic()
        await stack.down()
        took = time.monotonic() - begun
    assert took < 15
    assert stack.status().status == "stopped"
    assert_nothing_left(root)
    ports = (root / "ports.json").read_text()
    fewer: dict[str, Any] = {**options, "tiers": ("queue",), "with_workers": False}
    async with local_stack(root, **fewer) as again:
        assert await fetch(again.database("queue").app_url, "SELECT count(*) FROM runs") == 2
        assert (root / "ports.json").read_text() == ports


async def test_parts_can_be_broken_and_come_back(tmp_path: Path) -> None:
    root, path = tmp_path / "local", stand_ins(tmp_path / "standins")
    environment = {name: {"PYTHONPATH": path} for name in ("queue", "migrate-queue")}
    async with local_stack(root, tiers=("queue",), with_workers=False, environment=environment) as stack:
        port = int(stack.environment()["QUEUE_ADDR"].rpartition(":")[2])
        url = stack.database("queue").app_url
        before = stack.status().components

        await stack.kill("queue")
        await stack.wait_ready("queue")
        assert await serves_grpc(port)
        assert stack.status().components["queue"].pid != before["queue"].pid

        await stack.stop_database("queue")
        with pytest.raises(ConnectionRefusedError):
            await fetch(url, "SELECT 1")
        assert stack.status().components["queue-db"].status == "held"
        assert stack.status().components["queue"].status == "ready"
        await stack.start_database("queue")
        assert await fetch(url, "SELECT 1") == 1

        await stack.kill_database("queue")
        await stack.wait_ready("queue-db")
        assert await fetch(url, "SELECT 1") == 1

        stack.freeze_database("queue")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await fetch(url, "SELECT 1")
        stack.thaw_database("queue")
        assert await fetch(url, "SELECT 1") == 1

        after = stack.status().components
        assert all(after[name].pid == before[name].pid for name in ("valkey", "smtp", "otlp", "issuer"))
        with pytest.raises(StackError, match="no component nonsense"):
            await stack.kill("nonsense")


@pytest.mark.parametrize("then", ["up", "down"])
async def test_orphans_of_a_killed_supervisor_are_cleaned_up(tmp_path: Path, then: str) -> None:
    stack = LocalStack(tmp_path / "local", tiers=("oltp",), with_services=False, tied_to_caller=True)
    first = await stack.up()
    orphaned = [component.process for component in first.components.values() if component.pid]
    assert len(orphaned) == 5
    assert first.supervisor_pid is not None
    os.kill(first.supervisor_pid, signal.SIGKILL)
    await until(lambda: stack.status().status == "orphaned")
    assert all(process and process.alive for process in orphaned)
    if then == "up":
        second = await stack.up()
        assert second.supervisor_pid != first.supervisor_pid
        assert not any(process and process.alive for process in orphaned)
    await stack.down()
    assert not any(process and process.alive for process in orphaned)
    assert_nothing_left(tmp_path / "local")
    await stack.down()


async def test_two_ups_at_once_make_one_stack_and_it_ends_with_its_caller(tmp_path: Path) -> None:
    root = tmp_path / "local"
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom penguin_devstack.stack import LocalStack\n"
        "stack = LocalStack(Path(sys.argv[1]), tiers=(), with_services=False, tied_to_caller=True)\n"
        "print(asyncio.run(stack.up()).supervisor_pid, flush=True)\nsys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", program, str(root)]
    callers = [_caller(argv), _caller(argv)]
    try:
        pids = [int(await asyncio.to_thread(caller.stdout.readline)) for caller in callers if caller.stdout]
        assert len(set(pids)) == 1
        assert LocalStack(root).status().status == "ready"
    finally:
        for caller in callers:
            caller.kill()
            caller.communicate()
    await until(lambda: LocalStack(root).status().status == "stopped")
    await until(lambda: not psutil.pid_exists(pids[0]) or psutil.Process(pids[0]).status() == psutil.STATUS_ZOMBIE)
    assert_nothing_left(root)


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_foreground_supervisor_stops_cleanly_whenever_it_is_told_to(tmp_path: Path, after_s: float) -> None:
    root, options = tmp_path / "local", {"tiers": ["oltp"], "with_services": False}
    argv = [sys.executable, "-m", "penguin_devstack.stack", "--root", str(root), "--options", json.dumps(options)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as supervisor:
        deadline = time.monotonic() + 20
        while LocalStack(root).status().supervisor is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(after_s)
        supervisor.send_signal(signal.SIGINT)
        _, errors = supervisor.communicate(timeout=30)
    assert (supervisor.returncode, errors) == (0, b"")
    assert LocalStack(root).status().status == "stopped"
    assert_nothing_left(root)


async def test_a_taken_port_is_left_to_its_owner_and_another_chosen(tmp_path: Path) -> None:
    layout = Layout(tmp_path, StackOptions())
    layout.assign_ports()
    old = layout.port("smtp")
    with socket.create_server(("127.0.0.1", old)):
        fresh = Layout(tmp_path, StackOptions())
        fresh.assign_ports()
        assert fresh.port("smtp") != old
        assert fresh.port("otlp") == layout.port("otlp")


async def test_a_stack_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "local"
    (tmp_path / "standins" / "penguin_olap").mkdir(parents=True)
    _module(tmp_path / "standins" / "penguin_olap" / "__main__.py", "raise SystemExit('the schema is newer than I am')")
    environment = {"migrate-olap": {"PYTHONPATH": str(tmp_path / "standins")}}
    stack = LocalStack(root, tiers=("olap",), with_workers=False, environment=environment)
    with pytest.raises(StackError, match=r"migrate-olap did not start(.|\n)*the schema is newer"):
        await stack.up()
    assert stack.status().status == "failed"
    assert_nothing_left(root)
    with pytest.raises(StackError, match="not up"):
        await stack.stop_database("olap")


def test_secrets_are_for_their_owner_only_and_options_are_checked() -> None:
    with guarded_directory("penguin-layout-") as root:
        layout = Layout(root, StackOptions())
        with pytest.raises(NeverUpError):
            layout.client_environment("cli")
        with pytest.raises(NeverUpError):
            layout.passwords("oltp")
        layout.assign_ports()
        layout.ensure_passwords()
        assert (root / "secrets.json").stat().st_mode & 0o077 == 0
        first = layout.passwords("oltp")
        layout.ensure_passwords()
        assert layout.passwords("oltp") == first
    with pytest.raises(ValueError, match="no such tiers"):
        StackOptions(tiers=("web",))
    with pytest.raises(ValueError, match="need all five"):
        StackOptions(tiers=("oltp",))
