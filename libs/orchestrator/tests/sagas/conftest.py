"""Sagas under test: the five real tiers in this process, and their databases to count effects in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest
from libs.orchestrator.tests.sagas.crashes import Probe, ProbedTier
from libs.orchestrator.tests.sagas.scenarios import World
from tests.contract.tiers import TIERS, Tiers

from penguin_devstack.valkey import ValkeyServer
from penguin_orchestrator.clients import OPTIONS
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import IssuedTokens, TokenFactory


@pytest.fixture(scope="session")
async def world(databases: Databases, tokens: TokenFactory, valkey: ValkeyServer) -> AsyncIterator[World]:
    """The tiers as callers have them, each call of which passes the probe in force."""
    running = Tiers(databases, tokens, lambda: valkey.url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(running.close)
        probe, issued, tiers, dbs, looking = Probe(), IssuedTokens(tokens), {}, {}, {}
        for name in TIERS:
            await running.client(name)
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(running.addresses[name], options=OPTIONS)
            )
            tiers[name] = ProbedTier(name, channel, issued, probe)
            dbs[name] = await running.database(name)
            looking[name] = await asyncpg.connect(databases.cluster.superuser_dsn(running.database_name(name)))
            stack.push_async_callback(looking[name].close)
        yield World(tiers, dbs, looking, probe)


@pytest.fixture(autouse=True)
def unbroken(world: World) -> None:
    """Nothing is broken at first."""
    world.probe.heal()
