"""The five tiers, each its real server in this process on a database of its own, started when first asked for."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from tests.contract.harness import parametrise
from tests.contract.wire import World

from penguin.oltp.v1 import tenant_service_pb2
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_devstack.valkey import ValkeyServer
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

POOL_MAX = 8


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cases of the services' contracts."""
    parametrise(metafunc)


class Tiers:
    """Tiers that run, by name."""

    def __init__(self, databases: Databases, tokens: TokenFactory, redis_url: Callable[[], str]) -> None:
        self._databases = databases
        self._tokens = tokens
        self._redis_url = redis_url
        self._open = contextlib.AsyncExitStack()
        self._clients: dict[str, TierClient] = {}
        self._urls: dict[str, TierDatabase] = {}
        self.addresses: dict[str, str] = {}

    async def client(self, tier: str) -> TierClient:
        """A client of the tier, which is started unless it runs."""
        if tier not in self._clients:
            self._urls[tier] = await self._databases.clone(tier)
            serving = importlib.import_module(f"penguin_{tier}.app").serving
            running = await self._open.enter_async_context(serving(self._config(tier, self._urls[tier])))
            self.addresses[tier] = f"127.0.0.1:{running.port}"
            channel = await self._open.enter_async_context(grpc.aio.insecure_channel(self.addresses[tier]))
            self._clients[tier] = TierClient(tier, channel, self._tokens)
        return self._clients[tier]

    @contextlib.asynccontextmanager
    async def database(self, tier: str) -> AsyncIterator[Database]:
        """The running tier's database, for what no method of it can bring about."""
        urls = self._urls[tier]
        async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as opened:
            yield opened

    def _config(self, tier: str, urls: TierDatabase) -> Any:
        prefix = tier.upper()
        settings: dict[str, Any] = {
            f"{prefix}_DB_URL": urls.app_url,
            f"{prefix}_MAINTENANCE_DB_URL": urls.maintenance_url,
            f"{prefix}_LISTEN": "127.0.0.1:0",
            f"{prefix}_POOL_MAX": POOL_MAX,
            "PENGUIN_JWKS_PATH": self._tokens.jwks_path,
            "PENGUIN_DRAIN_SECONDS": 0.1,
        }
        if tier == "queue":
            settings["QUEUE_REDIS_URL"] = self._redis_url()
        config = getattr(importlib.import_module(f"penguin_{tier}.config"), f"{tier.capitalize()}Config")
        return config(**settings)

    async def close(self) -> None:
        """Stop those that run, the last first."""
        await self._open.aclose()


@pytest.fixture(scope="session")
async def tiers(databases: Databases, tokens: TokenFactory, request: pytest.FixtureRequest) -> AsyncIterator[Tiers]:
    """The tiers of this test process."""

    def redis_url() -> str:
        server: ValkeyServer = request.getfixturevalue("valkey")
        return server.url

    running = Tiers(databases, tokens, redis_url)
    try:
        yield running
    finally:
        await running.close()


@pytest.fixture
async def new_tenant(tiers: Tiers) -> Callable[[str], Awaitable[UUID]]:
    """Make a tenant that nothing else uses. OLTP must know of it; to the others it is an id."""

    async def new_tenant(tier: str) -> UUID:
        tenant = uuid4()
        if tier == "oltp":
            item = tenant_service_pb2.NewTenant(request_id=str(uuid4()), id=str(tenant), name="Contract")
            request = tenant_service_pb2.CreateTenantRequest(tenant=item)
            world = World(await tiers.client(tier), tenant, uuid4())
            await world.call("penguin.oltp.v1.TenantService/CreateTenant", request)
        return tenant

    return new_tenant


@pytest.fixture
async def world(tier: str, tiers: Tiers, new_tenant: Callable[[str], Awaitable[UUID]]) -> World:
    """The tier, with a tenant and a stranger of this test alone."""
    return World(await tiers.client(tier), await new_tenant(tier), await new_tenant(tier))
