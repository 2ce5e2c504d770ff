"""The embedded Valkey on a real process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis

from penguin_devstack.ports import is_free
from penguin_devstack.valkey import ValkeyError, ValkeyServer, answers_ping, temporary_valkey


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with temporary_valkey() as started:
        yield started


async def test_serves_and_keeps_nothing_on_disk(server: ValkeyServer) -> None:
    async with redis.from_url(server.url) as client:
        await client.set("key", "value")
        assert await client.get("key") == b"value"
        assert (await client.config_get("save"))["save"] == ""
        assert (await client.config_get("bind"))["bind"] == "127.0.0.1"
    port = server.port
    server.kill()
    assert not server.running
    server.start()
    assert server.port == port
    async with redis.from_url(server.url) as client:
        assert await client.get("key") is None


def test_frozen_does_not_answer_and_thawed_does(server: ValkeyServer) -> None:
    server.freeze()
    assert not answers_ping(server.port, timeout_s=0.2)
    server.thaw()
    assert answers_ping(server.port)
    server.freeze()
    server.stop()
    assert is_free(server.port)


def test_wanted_port_in_use_is_refused(server: ValkeyServer, tmp_path: Path) -> None:
    with pytest.raises(ValkeyError, match="Address already in use"):
        ValkeyServer(tmp_path / "second", server.port).start()


def test_starting_twice_is_refused(server: ValkeyServer) -> None:
    with pytest.raises(ValkeyError, match="already running"):
        server.start()
