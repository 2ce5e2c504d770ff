"""The OLAP tier under test: its real server on its real database, entered as production enters it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import grpc
import pytest

from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_olap.app import serving
from penguin_olap.config import OlapConfig
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory


@pytest.fixture(scope="session")
async def olap_urls(databases: Databases) -> TierDatabase:
    """A database of this test process."""
    return await databases.clone("olap")


@pytest.fixture(scope="session")
async def db(olap_urls: TierDatabase) -> AsyncIterator[Database]:
    """The tier's database as its stores see it."""
    async with database(PoolSettings(olap_urls.app_url, olap_urls.maintenance_url, max_size=8)) as opened:
        yield opened


@pytest.fixture(scope="session")
async def olap(olap_urls: TierDatabase, tokens: TokenFactory) -> AsyncIterator[TierClient]:
    """A client of the running tier."""
    config = OlapConfig.model_validate(
        {
            "OLAP_DB_URL": olap_urls.app_url,
            "OLAP_MAINTENANCE_DB_URL": olap_urls.maintenance_url,
            "OLAP_LISTEN": "127.0.0.1:0",
            "OLAP_POOL_MAX": 8,
            "PENGUIN_JWKS_PATH": tokens.jwks_path,
            "PENGUIN_DRAIN_SECONDS": 0.1,
        }
    )
    async with serving(config) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        yield TierClient("olap", channel, tokens)


@pytest.fixture
def tenant() -> UUID:
    """A tenant of this test alone."""
    return uuid4()
