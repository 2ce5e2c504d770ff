"""The Content tier under test: its real server on its real database, entered as production enters it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_content.app import serving
from penguin_content.config import ContentConfig
from penguin_devstack.roles import TierDatabase
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory


@pytest.fixture(scope="session")
async def content_urls(databases: Databases) -> TierDatabase:
    """A database of this test process."""
    return await databases.clone("content")


@pytest.fixture(scope="session")
async def db(content_urls: TierDatabase) -> AsyncIterator[Database]:
    """The tier's database as its stores see it."""
    async with database(PoolSettings(content_urls.app_url, content_urls.maintenance_url, max_size=8)) as opened:
        yield opened


@pytest.fixture(scope="session")
async def own_db(databases: Databases) -> AsyncIterator[Database]:
    """A database that no server's duties touch, so that time can be passed in."""
    urls = await databases.clone("content")
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=8)) as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(urls: TierDatabase, tokens: TokenFactory) -> AsyncIterator[TierClient]:
    """The tier on one database, and a client of it."""
    settings: dict[str, Any] = {
        "CONTENT_DB_URL": urls.app_url,
        "CONTENT_MAINTENANCE_DB_URL": urls.maintenance_url,
        "CONTENT_LISTEN": "127.0.0.1:0",
        "PENGUIN_JWKS_PATH": tokens.jwks_path,
        "PENGUIN_DRAIN_SECONDS": 0.1,
        "CONTENT_POOL_MAX": 8,
    }
    async with (
        serving(ContentConfig(**settings)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield TierClient("content", channel, tokens)


@pytest.fixture(scope="session")
async def content(content_urls: TierDatabase, tokens: TokenFactory) -> AsyncIterator[TierClient]:
    """A client of the running tier."""
    async with running(content_urls, tokens) as client:
        yield client


@pytest.fixture
def stub(content: TierClient) -> ContentServiceStub:
    """The service as its clients call it."""
    return ContentServiceStub(content.channel)


@pytest.fixture
def tenant() -> UUID:
    """A tenant of this test alone: Content needs no more of one than its id."""
    return uuid4()
