"""Servers that receive mail, well-behaved and not, and the fake tiers that sending needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from libs.worker.tests.receivers import Mailbox, ScriptedSmtp, reachable

from penguin_devstack.ports import LOOPBACK, free_port
from penguin_devstack.smtp import serve
from penguin_orchestrator.clients import Tier
from penguin_testkit.peers import Peers
from penguin_worker.config import WorkerConfig


@pytest.fixture
async def mailbox(tmp_path: Path) -> AsyncIterator[Mailbox]:
    port, stopped = free_port(), asyncio.Event()
    serving = asyncio.create_task(serve(port, tmp_path / "mail", stopped=stopped))
    await reachable(port)
    yield Mailbox(port, tmp_path / "mail")
    stopped.set()
    await serving


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedSmtp]:
    script = ScriptedSmtp()
    talks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(script.talk(reader, writer))
        talks.add(task)
        task.add_done_callback(talks.discard)

    server = await asyncio.start_server(connected, LOOPBACK, 0, limit=2**24)
    script.port = server.sockets[0].getsockname()[1]
    yield script
    server.close()
    for task in list(talks):
        task.cancel()
    await asyncio.gather(*talks, return_exceptions=True)


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
async def tiers(peers: Peers) -> AsyncIterator[dict[str, Tier]]:
    async with peers.serving() as served:
        yield served


Configure = Callable[..., WorkerConfig]


@pytest.fixture
def configure() -> Configure:
    """A worker's configuration with short times; every test says where its SMTP server is."""

    def make(**fields: object) -> WorkerConfig:
        usual = {
            "worker_id": "test",
            "lease_s": 5.0,
            "drain_s": 2.0,
            "etl_interval_s": 0.0,
            "smtp_timeout_s": 2.0,
            "smtp_reply_timeout_s": 2.0,
        }
        return WorkerConfig.model_validate(usual | fields)

    return make
