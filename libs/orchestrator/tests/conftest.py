"""The orchestrator under test: it calls real tiers, and what breaks is broken on the way to them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import grpc
import pytest
from services.oltp.tests.rows import make_tenant

from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_content.app import serving as serve_content
from penguin_content.config import ContentConfig
from penguin_devstack.roles import TierDatabase
from penguin_devstack.valkey import ValkeyServer
from penguin_oltp.app import serving as serve_oltp
from penguin_oltp.config import OltpConfig
from penguin_orchestrator.clients import OPTIONS, Tier
from penguin_queue.app import serving as serve_queue
from penguin_queue.config import QueueConfig
from penguin_testkit.databases import Databases
from penguin_testkit.faults import Faults
from penguin_testkit.tokens import IssuedTokens, TokenFactory

Make = Callable[[str, int, Faults], Tier]


@pytest.fixture(scope="session")
async def urls(databases: Databases) -> dict[str, TierDatabase]:
    """The tiers' databases of this test process."""
    return {tier: await databases.clone(tier) for tier in ("oltp", "content", "queue")}


def _settings(tier: str, urls: TierDatabase, tokens: TokenFactory) -> dict[str, Any]:
    name = tier.upper()
    return {
        f"{name}_DB_URL": urls.app_url,
        f"{name}_MAINTENANCE_DB_URL": urls.maintenance_url,
        f"{name}_LISTEN": "127.0.0.1:0",
        f"{name}_POOL_MAX": 8,
        "PENGUIN_JWKS_PATH": tokens.jwks_path,
        "PENGUIN_DRAIN_SECONDS": 0.1,
    }


@pytest.fixture(scope="session")
async def ports(
    urls: dict[str, TierDatabase], tokens: TokenFactory, valkey: ValkeyServer
) -> AsyncIterator[dict[str, int]]:
    """Where the real tiers serve."""
    async with contextlib.AsyncExitStack() as stack:
        oltp = OltpConfig(**_settings("oltp", urls["oltp"], tokens))
        content = ContentConfig(**_settings("content", urls["content"], tokens))
        queue = QueueConfig(**_settings("queue", urls["queue"], tokens), QUEUE_REDIS_URL=valkey.url)
        yield {
            "oltp": (await stack.enter_async_context(serve_oltp(oltp))).port,
            "content": (await stack.enter_async_context(serve_content(content))).port,
            "queue": (await stack.enter_async_context(serve_queue(queue))).port,
        }


@pytest.fixture
def faults() -> dict[str, Faults]:
    """What is to break, by tier."""
    return {tier: Faults() for tier in ("oltp", "content", "queue", "notifications")}


@pytest.fixture
async def make(tokens: TokenFactory) -> AsyncIterator[Make]:
    """Make a tier's client: its name, its port on this machine, what breaks on the way."""
    async with contextlib.AsyncExitStack() as stack:
        issued = IssuedTokens(tokens)

        def client(name: str, port: int, faults: Faults) -> Tier:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS, interceptors=[faults])
            stack.push_async_callback(channel.close)
            return Tier(name, channel, issued)

        yield client


@pytest.fixture
async def tiers(ports: dict[str, int], faults: dict[str, Faults], make: Make) -> dict[str, Tier]:
    """The tiers as the orchestrator holds them. Nobody serves notifications."""
    return {name: make(name, ports.get(name, 9), faults[name]) for name in faults}


@pytest.fixture(scope="session")
async def oltp_db(urls: dict[str, TierDatabase]) -> AsyncIterator[Database]:
    """OLTP's database."""
    async with _opened(urls["oltp"]) as opened:
        yield opened


@pytest.fixture(scope="session")
async def content_db(urls: dict[str, TierDatabase]) -> AsyncIterator[Database]:
    """Content's database."""
    async with _opened(urls["content"]) as opened:
        yield opened


@pytest.fixture(scope="session")
async def queue_db(urls: dict[str, TierDatabase]) -> AsyncIterator[Database]:
    """Queue's database."""
    async with _opened(urls["queue"]) as opened:
        yield opened


def _opened(urls: TierDatabase) -> contextlib.AbstractAsyncContextManager[Database]:
    return database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=4))


@pytest.fixture
async def tenant(oltp_db: Database) -> UUID:
    """A tenant of this test alone."""
    return await make_tenant(oltp_db)
