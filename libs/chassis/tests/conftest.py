"""The chassis under test: OLTP's schema as the database of some tier, and a probe tier behind the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import grpc
import pytest
from libs.chassis.tests.probe import Probe, probing

from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_oltp.app import serving
from penguin_oltp.config import OltpConfig
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory


@pytest.fixture(scope="session")
async def urls(databases: Databases) -> TierDatabase:
    """A migrated database of this test process."""
    return await databases.clone("oltp")


@pytest.fixture(scope="session")
async def db(urls: TierDatabase) -> AsyncIterator[Database]:
    """It, as stores see it."""
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=8)) as opened:
        yield opened


@pytest.fixture
def tenant() -> UUID:
    """A tenant that nothing else uses."""
    return uuid4()


@pytest.fixture
async def probe(tokens: TokenFactory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Probe]:
    """The probe tier, its streams as long as the contract says."""
    async with probing(tokens, monkeypatch) as running:
        yield running


@pytest.fixture(scope="session")
async def oltp_status(urls: TierDatabase, tokens: TokenFactory) -> AsyncIterator[TierClient]:
    """A client of the real OLTP tier, for what every tier owes."""
    config = OltpConfig(
        OLTP_DB_URL=urls.app_url,
        OLTP_MAINTENANCE_DB_URL=urls.maintenance_url,
        OLTP_LISTEN="127.0.0.1:0",
        PENGUIN_JWKS_PATH=tokens.jwks_path,
        PENGUIN_DRAIN_SECONDS=0.1,
        OLTP_POOL_MAX=4,
    )
    async with serving(config) as running, grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel:
        yield TierClient("oltp", channel, tokens)
