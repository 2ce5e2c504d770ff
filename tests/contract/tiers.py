"""The five tiers, each its real server in this process on a database of its own, started when first asked for."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import grpc

from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase
from penguin_testkit.calling import TierClient
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

TIERS = ("oltp", "content", "olap", "queue", "notifications")
POOL_MAX = 8


class Tiers:
    """Tiers that run, by name."""

    def __init__(self, databases: Databases, tokens: TokenFactory, redis_url: Callable[[], str]) -> None:
        self._databases = databases
        self._tokens = tokens
        self._redis_url = redis_url
        self._open = contextlib.AsyncExitStack()
        self._clients: dict[str, TierClient] = {}
        self._urls: dict[str, TierDatabase] = {}
        self._databases_open: dict[str, Database] = {}
        self.addresses: dict[str, str] = {}

    async def client(self, tier: str) -> TierClient:
        """A client of the tier, which is started unless it runs."""
        if tier not in self._clients:
            self._urls[tier] = await self._databases.clone(tier)
            serving = importlib.import_module(f"penguin_{tier}.app").serving
            running = await self._open.enter_async_context(serving(self._config(tier, self._urls[tier])))
            self.addresses[tier] = f"127.0.0.1:{running.port}"
            channel = await self._open.enter_async_context(grpc.aio.insecure_channel(self.addresses[tier]))
            self._clients[tier] = TierClient(tier, channel, self._tokens)
        return self._clients[tier]

    async def database(self, tier: str) -> Database:
        """The running tier's database, for what no method of it can bring about or show."""
        if tier not in self._databases_open:
            urls = self._urls[tier]
            pool = PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)
            self._databases_open[tier] = await self._open.enter_async_context(database(pool))
        return self._databases_open[tier]

    def database_name(self, tier: str) -> str:
        """What the running tier's database is called."""
        return self._urls[tier].database

    def _config(self, tier: str, urls: TierDatabase) -> Any:
        prefix = tier.upper()
        settings: dict[str, Any] = {
            f"{prefix}_DB_URL": urls.app_url,
            f"{prefix}_MAINTENANCE_DB_URL": urls.maintenance_url,
            f"{prefix}_LISTEN": "127.0.0.1:0",
            f"{prefix}_POOL_MAX": POOL_MAX,
            "PENGUIN_JWKS_PATH": self._tokens.jwks_path,
            "PENGUIN_DRAIN_SECONDS": 0.1,
        }
        if tier == "queue":
            settings["QUEUE_REDIS_URL"] = self._redis_url()
        config = getattr(importlib.import_module(f"penguin_{tier}.config"), f"{tier.capitalize()}Config")
        return config(**settings)

    async def close(self) -> None:
        """Stop those that run, the last first."""
        await self._open.aclose()
