"""The Notifications tier under test: its real server on its real database, entered as production enters it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import grpc
import pytest
from services.notifications.tests.rows import config_of

from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_notifications.app import serving
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory


@pytest.fixture(scope="session")
async def notifications_urls(databases: Databases) -> TierDatabase:
    """A database of this test process."""
    return await databases.clone("notifications")


@pytest.fixture(scope="session")
async def db(notifications_urls: TierDatabase) -> AsyncIterator[Database]:
    """The tier's database as its stores see it."""
    urls = notifications_urls
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=8)) as opened:
        yield opened


@pytest.fixture(scope="session")
async def notifications(notifications_urls: TierDatabase, tokens: TokenFactory) -> AsyncIterator[TierClient]:
    """A client of the running tier."""
    config = config_of(notifications_urls, tokens)
    async with serving(config) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        yield TierClient("notifications", channel, tokens)


@pytest.fixture
def tenant() -> UUID:
    """A tenant of this test alone."""
    return uuid4()
