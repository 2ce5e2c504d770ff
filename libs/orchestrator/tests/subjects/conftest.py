"""People erased from real tiers: the five of them in this process, each of which can be put back to an older state."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from tests.contract.tiers import TIERS, Tiers

from penguin_devstack import pgbinaries
from penguin_devstack.postgres import PostgresCluster
from penguin_devstack.roles import TierDatabase
from penguin_devstack.valkey import ValkeyServer
from penguin_orchestrator.clients import OPTIONS, Tier
from penguin_orchestrator.erasure_ledger import ErasureLedger, make_key
from penguin_orchestrator.platform import Penguin
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import IssuedTokens, TokenFactory


class Town:
    """Five tiers with databases of their own, and the ledger of erasures."""

    def __init__(self, databases: Databases, tokens: TokenFactory, redis_url: str, folder: Path) -> None:
        self.cluster: PostgresCluster = databases.cluster
        self.ledger_paths = (folder / "ledger", folder / "copy", folder / "keys" / "erasures")
        make_key(self.ledger_paths[2])
        self._folder = folder
        self._databases = databases
        self._tokens = IssuedTokens(tokens)
        self._served = Tiers(databases, tokens, lambda: redis_url)
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}
        self.databases: dict[str, TierDatabase] = {}
        self.tiers: dict[str, Tier] = {}

    @property
    def penguin(self) -> Penguin:
        """The platform as a new process has it."""
        return Penguin(self.tiers, ErasureLedger.open(*self.ledger_paths))

    async def serve(self, name: str) -> None:
        """Start a tier on its database."""
        if name not in self.databases:
            self.databases[name] = await self._databases.clone(name)
        stack = self._stacks[name] = contextlib.AsyncExitStack()
        config = self._served._config(name, self.databases[name])
        running: Any = await stack.enter_async_context(importlib.import_module(f"penguin_{name}.app").serving(config))
        address = f"127.0.0.1:{running.port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=OPTIONS))
        self.tiers[name] = Tier(name, channel, self._tokens, address)

    async def stop(self, name: str) -> None:
        """End a tier's server."""
        await self._stacks.pop(name).aclose()

    async def close(self) -> None:
        """End what runs."""
        for name in list(self._stacks):
            await self.stop(name)

    def back_up(self, name: str) -> Path:
        """The tier's database as it is now, in a file."""
        path = self._folder / f"{name}.dump"
        self._tool("pg_dump", "-Fc", "-f", str(path), self.cluster.superuser_dsn(self.databases[name].database))
        return path

    async def restore(self, name: str, backup: Path) -> None:
        """Put the tier's database back to what it was, and serve it: an operator's mark is still to come."""
        await self.stop(name)
        database = self.databases[name].database
        await self.cluster.drop_database(database)
        await self.cluster.create_database(database, owner=f"{name}_owner")
        self._tool("pg_restore", "-d", self.cluster.superuser_dsn(database), str(backup))
        await self.serve(name)

    def _tool(self, name: str, *arguments: str) -> None:
        words = [str(pgbinaries.bin_dir() / name), *arguments]
        subprocess.run(words, check=True, capture_output=True, env=pgbinaries.program_environment(), timeout=120)

    async def superuser(self, name: str) -> asyncpg.Connection[asyncpg.Record]:
        """A look at everything in the tier's database."""
        return await asyncpg.connect(self.cluster.superuser_dsn(self.databases[name].database))


@pytest.fixture
async def town(databases: Databases, tokens: TokenFactory, valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[Town]:
    """The tiers of one test."""
    running = Town(databases, tokens, valkey.url, tmp_path)
    try:
        for name in TIERS:
            await running.serve(name)
        yield running
    finally:
        await running.close()
