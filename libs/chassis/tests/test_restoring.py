"""A restored database is not served before erasures are replayed into it, from the first call on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from penguin_chassis import main, restoring
from penguin_chassis.faults import FailedPrecondition, Unavailable
from penguin_chassis.pool import Database, database
from penguin_chassis.restoring import Incarnation
from penguin_chassis.settings import PoolSettings, TelemetrySettings
from penguin_testkit.databases import Databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def look(db: Database) -> Incarnation:
    """As a process sees it that has just begun."""
    seen = Incarnation()
    seen.of(db)
    assert not seen.known
    await seen.look()
    assert seen.known
    return seen


async def test_a_life_begins_replayed_and_a_restored_one_waits(databases: Databases) -> None:
    urls = await databases.clone("olap")
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, 2)) as db:
        first = await look(db)
        first.admit()
        told: list[bool] = []

        async def changed() -> None:
            told.append(first.restoring)

        first.changed = changed
        second = await restoring.mark_restored(db, NOW)
        await first.refresh(db)
        assert (first.id, first.restoring) == (str(second), True)
        with pytest.raises(Unavailable) as refused:
            (await look(db)).admit()
        assert (refused.value.reason, refused.value.metadata) == ("RESTORE_NOT_REPLAYED", {"effect": "none"})
        with pytest.raises(FailedPrecondition):
            await restoring.mark_replayed(db, uuid4(), NOW)
        third = await restoring.mark_restored(db, NOW)
        with pytest.raises(FailedPrecondition):
            await restoring.mark_replayed(db, second, NOW)
        await restoring.mark_replayed(db, third, NOW)
        await first.refresh(db)
        first.admit()
        assert told == [True, False]


async def test_a_server_without_a_database_serves() -> None:
    seen = Incarnation()
    assert seen.known
    seen.admit()


@pytest.fixture
def marked(databases: Databases) -> Callable[[str], int]:
    """`python -m penguin_olap restored`."""

    def run(url: str) -> int:
        return main.run(
            "olap", serving=lambda: pytest.fail("it must not serve"), owner_url=lambda: url,
            migrations_package="penguin_olap.migrations", telemetry_settings=lambda: TelemetrySettings("test"),
            argv=["restored"],
        )  # fmt: skip

    return run


async def olap(databases: Databases) -> tuple[str, PoolSettings]:
    urls = await databases.clone("olap")
    return urls.owner_url, PoolSettings(urls.app_url, urls.maintenance_url, 2)


async def test_the_owner_marks_it_before_it_is_served(
    databases: Databases, marked: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    owner_url, settings = await olap(databases)
    assert await asyncio.to_thread(marked, owner_url) == 0
    said = capsys.readouterr().out
    async with database(settings) as db:
        seen = await look(db)
    assert seen.restoring
    assert UUID(seen.id)
    assert seen.id in said
    assert await asyncio.to_thread(marked, owner_url.replace("olap_", "nobody_", 1)) == 1
