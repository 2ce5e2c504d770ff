"""The Queue tier under test: its real server on its real database and a real Redis, entered as production enters it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from uuid import UUID, uuid4

import grpc
import pytest

from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_devstack.valkey import ValkeyServer
from penguin_queue.app import serving
from penguin_queue.config import QueueConfig
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

Serve = Callable[[TierDatabase, str], contextlib.AbstractAsyncContextManager[TierClient]]


@pytest.fixture(scope="session")
async def queue_urls(databases: Databases) -> TierDatabase:
    """A database of this test process."""
    return await databases.clone("queue")


@pytest.fixture(scope="session")
async def db(queue_urls: TierDatabase) -> AsyncIterator[Database]:
    """The database that the running tier serves, as its stores see it."""
    async with database(PoolSettings(queue_urls.app_url, queue_urls.maintenance_url, max_size=8)) as opened:
        yield opened


@pytest.fixture
async def own_db(databases: Databases) -> AsyncIterator[Database]:
    """A database that no server sweeps and no other test leases from."""
    urls = await databases.clone("queue")
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=8)) as opened:
        yield opened


@pytest.fixture(scope="session")
def serve(tokens: TokenFactory) -> Serve:
    """Serve the tier on a database and a Redis URL (or none)."""

    @contextlib.asynccontextmanager
    async def serve(urls: TierDatabase, redis_url: str) -> AsyncIterator[TierClient]:
        config = QueueConfig(
            QUEUE_DB_URL=urls.app_url,
            QUEUE_MAINTENANCE_DB_URL=urls.maintenance_url,
            QUEUE_REDIS_URL=redis_url,
            QUEUE_LISTEN="127.0.0.1:0",
            QUEUE_POOL_MAX=8,
            QUEUE_MAINTENANCE_POOL_MAX=8,
            PENGUIN_JWKS_PATH=tokens.jwks_path,
            PENGUIN_DRAIN_SECONDS=0.1,
        )
        async with serving(config) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            yield TierClient("queue", channel, tokens)

    return serve


@pytest.fixture(scope="session")
async def queue(serve: Serve, queue_urls: TierDatabase, valkey: ValkeyServer) -> AsyncIterator[TierClient]:
    """A client of the running tier."""
    async with serve(queue_urls, valkey.url) as client:
        yield client


@pytest.fixture
def stub(queue: TierClient) -> QueueServiceStub:
    """The running tier's methods."""
    return QueueServiceStub(queue.channel)


@pytest.fixture
def tenant() -> UUID:
    """A tenant of this test alone."""
    return uuid4()


@pytest.fixture
def kind() -> str:
    """A kind of this test alone: leases span tenants."""
    return f"test.k{uuid4().hex}"
