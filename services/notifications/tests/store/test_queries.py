"""Every named query fits the migrated schema, as the roles that run it."""

from __future__ import annotations

import importlib
import pkgutil

import asyncpg
import pytest

import penguin_notifications.store
from penguin_chassis.queries import Queries
from penguin_devstack.roles import TierDatabase


def named() -> dict[str, str]:
    """Every query of every store module."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(penguin_notifications.store.__path__):
        for value in vars(importlib.import_module(f"penguin_notifications.store.{module.name}")).values():
            if isinstance(value, Queries):
                found |= {f"{module.name}.{name}": text for name, text in value.names().items()}
    return found


@pytest.mark.parametrize("name", sorted(named()))
async def test_it_can_be_prepared(name: str, notifications_urls: TierDatabase) -> None:
    for url in (notifications_urls.app_url, notifications_urls.maintenance_url):
        connection = await asyncpg.connect(url, timeout=10)
        try:
            assert (await connection.prepare(named()[name])).get_query()
        finally:
            await connection.close(timeout=5)


def test_there_are_queries() -> None:
    assert len(named()) >= 10
