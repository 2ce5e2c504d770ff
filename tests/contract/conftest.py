"""What the contracts are tested on: the tiers that run, and tenants of each test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.contract.harness import parametrise
from tests.contract.tiers import Tiers
from tests.contract.wire import World

from penguin_devstack.signing_keys import KeyDirectory
from penguin_devstack.stack import LocalStack
from penguin_devstack.valkey import ValkeyServer
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

# Thousands of tests have two each.
TENANTS_AT_ONCE = 100
NEW_TENANTS = """INSERT INTO tenants (tenant_id, name, status, unknown_outcome_policy, version, created_at, updated_at)
SELECT gen_random_uuid(), 'Contract', 'active', 'hold', 1, now(), now() FROM generate_series(1, $1) RETURNING tenant_id"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cases of the services' contracts."""
    parametrise(metafunc)


@pytest.fixture(scope="session")
def issuer_root(tokens: TokenFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose development keys `penguin token` signs with; the tiers trust them beside the tests' own."""
    root = Path(tmp_path_factory.mktemp("root"))
    keys = KeyDirectory(LocalStack(root).issuer_dir)
    keys.ensure()
    kid, key = keys.signing_key()
    tokens.keys = {kid: key, **tokens.keys}
    tokens.publish(tokens.keys)
    return root


@pytest.fixture(scope="session")
async def tiers(
    databases: Databases, tokens: TokenFactory, issuer_root: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Tiers]:
    """The tiers of this test process."""

    def redis_url() -> str:
        server: ValkeyServer = request.getfixturevalue("valkey")
        return server.url

    running = Tiers(databases, tokens, redis_url)
    try:
        yield running
    finally:
        await running.close()


@pytest.fixture(scope="session")
def ready_tenants() -> list[UUID]:
    """Tenants that OLTP knows of and no test has had yet."""
    return []


@pytest.fixture
async def new_tenant(tiers: Tiers, ready_tenants: list[UUID]) -> Callable[[str], Awaitable[UUID]]:
    """A tenant that nothing else uses. OLTP must know of it; to the others it is an id."""

    async def new_tenant(tier: str) -> UUID:
        if tier != "oltp":
            return uuid4()
        if not ready_tenants:
            await tiers.client(tier)
            async with (await tiers.database(tier)).maintenance() as connection:
                rows = await connection.fetch(NEW_TENANTS, TENANTS_AT_ONCE)
            ready_tenants.extend(row["tenant_id"] for row in rows)
        return ready_tenants.pop()

    return new_tenant


@pytest.fixture
async def world(tier: str, tiers: Tiers, new_tenant: Callable[[str], Awaitable[UUID]]) -> World:
    """The tier, with a tenant and a stranger of this test alone."""
    return await world_of(tiers, tier, await new_tenant(tier), await new_tenant(tier))


async def world_of(tiers: Tiers, tier: str, tenant: UUID, stranger: UUID) -> World:
    """The tier and its tenants."""
    return World(await tiers.client(tier), tenant, stranger, lambda: tiers.database(tier))
