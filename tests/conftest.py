"""The whole local stack, once per test process, for the tests that need several processes at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.queues import REPLICAS, SAMPLED

from penguin_devstack.issuer import TIERS
from penguin_devstack.postgres import THROWAWAY_SETTINGS
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin

# How long what a killed worker held is waited for.
WORKER_LEASE_S = 5


@pytest.fixture(scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    """Every tier, relay, worker and receiver, each its own process; gone at the end."""
    root = Path(tmp_path_factory.mktemp("stack"))
    environment = {name: dict(SAMPLED) for name in (*TIERS, "relay", "worker")}
    environment["worker"] |= {"ETL_INTERVAL_S": "2", "WORKER_LEASE_S": str(WORKER_LEASE_S)}
    # Some tests have a second one beside it: without Redis each gives its part of a rate.
    environment["queue"] |= {"QUEUE_REPLICAS": str(REPLICAS)}
    local = LocalStack(root, tied_to_caller=True, environment=environment, database_settings=THROWAWAY_SETTINGS)
    try:
        await local.up()
        yield local
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await local.down()


@pytest.fixture(scope="session")
async def penguin(stack: LocalStack) -> AsyncIterator[Penguin]:
    """The platform as a caller has it."""
    config = PlatformConfig(**stack.environment("orchestrator"))  # type: ignore[arg-type]
    async with Penguin.connect(config) as connected:
        yield connected
