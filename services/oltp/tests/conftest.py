"""The OLTP tier under test: its real server on its real database, entered as production enters it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import grpc
import pytest
from services.oltp.tests.rows import make_tenant

from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_oltp.app import serving
from penguin_oltp.config import OltpConfig
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory


@pytest.fixture(scope="session")
async def oltp_urls(databases: Databases) -> TierDatabase:
    """A database of this test process."""
    return await databases.clone("oltp")


@pytest.fixture(scope="session")
async def db(oltp_urls: TierDatabase) -> AsyncIterator[Database]:
    """The tier's database as its stores see it."""
    async with database(PoolSettings(oltp_urls.app_url, oltp_urls.maintenance_url, max_size=8)) as opened:
        yield opened


@pytest.fixture(scope="session")
async def oltp(oltp_urls: TierDatabase, tokens: TokenFactory) -> AsyncIterator[TierClient]:
    """A client of the running tier."""
    config = OltpConfig(
        OLTP_DB_URL=oltp_urls.app_url,
        OLTP_MAINTENANCE_DB_URL=oltp_urls.maintenance_url,
        OLTP_LISTEN="127.0.0.1:0",
        PENGUIN_JWKS_PATH=tokens.jwks_path,
        PENGUIN_DRAIN_SECONDS=0.1,
        OLTP_POOL_MAX=8,
    )
    async with serving(config) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        yield TierClient("oltp", channel, tokens)


@pytest.fixture
async def tenant(db: Database) -> UUID:
    """A tenant of this test alone."""
    return await make_tenant(db)


@pytest.fixture
async def stranger(db: Database) -> UUID:
    """Another tenant."""
    return await make_tenant(db)
