"""The orchestrator under test: it calls real tiers, and what breaks is broken on the way to them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import grpc
import pytest
from libs.orchestrator.tests.planting import World
from services.oltp.tests.rows import make_tenant

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_content.app import serving as serve_content
from penguin_content.config import ContentConfig
from penguin_devstack.roles import TierDatabase
from penguin_devstack.valkey import ValkeyServer
from penguin_notifications.app import serving as serve_notifications
from penguin_notifications.config import NotificationsConfig
from penguin_olap.app import serving as serve_olap
from penguin_olap.config import OlapConfig
from penguin_oltp.app import serving as serve_oltp
from penguin_oltp.config import OltpConfig
from penguin_orchestrator.clients import OPTIONS, Tier
from penguin_orchestrator.reconciling import reading
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler
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


@pytest.fixture(scope="session")
async def more_urls(databases: Databases) -> dict[str, TierDatabase]:
    """The databases of the tiers that hold no keys."""
    return {tier: await databases.clone(tier) for tier in ("olap", "notifications")}


@pytest.fixture(scope="session")
async def olap_db(more_urls: dict[str, TierDatabase]) -> AsyncIterator[Database]:
    """OLAP's database."""
    urls = more_urls["olap"]
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as opened:
        yield opened


@pytest.fixture(scope="session")
async def more_ports(more_urls: dict[str, TierDatabase], tokens: TokenFactory) -> AsyncIterator[dict[str, int]]:
    """The tiers that hold no keys, and must say so."""
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        known: tuple[tuple[str, Any, Any], ...] = (
            ("olap", OlapConfig, serve_olap), ("notifications", NotificationsConfig, serve_notifications),
        )  # fmt: skip
        for tier, config, serving in known:
            urls = more_urls[tier]
            prefix = tier.upper()
            settings: dict[str, Any] = {
                f"{prefix}_DB_URL": urls.app_url, f"{prefix}_MAINTENANCE_DB_URL": urls.maintenance_url,
                f"{prefix}_LISTEN": "127.0.0.1:0", "PENGUIN_JWKS_PATH": tokens.jwks_path, "PENGUIN_DRAIN_SECONDS": 0.1,
            }  # fmt: skip
            ports[tier] = (await stack.enter_async_context(serving(config(**settings)))).port
        yield ports


@pytest.fixture
def breaks() -> dict[str, Faults]:
    """What is to break, by tier."""
    return {tier: Faults() for tier in reading.TIERS}


@pytest.fixture
async def all_tiers(
    ports: dict[str, int], more_ports: dict[str, int], breaks: dict[str, Faults], make: Any
) -> dict[str, Tier]:
    """All five, each with what breaks on its way."""
    return {name: make(name, (ports | more_ports)[name], breaks[name]) for name in reading.TIERS}


@pytest.fixture
async def world(tenant: UUID, oltp_db: Database, content_db: Database) -> World:
    """This test's tenant; no run of another test is under way."""
    async with oltp_db.maintenance() as connection:
        await connection.execute("UPDATE reconcile_runs SET status = 'finished' WHERE status = 'running'")
    return World(tenant, oltp_db, content_db)


@pytest.fixture
def reconcile(all_tiers: dict[str, Tier], world: World) -> Callable[..., Any]:
    """Run it for this test's tenant alone."""

    async def run(terms: Terms | None = None, **more: Any) -> pb.ReconcileRun:
        terms = terms or Terms(apply=True)
        terms = Terms(terms.apply, world.tenant, terms.grace, terms.cap)
        return await Reconciler(all_tiers, **more).run(terms)

    return run
