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
from penguin_chassis.restoring import Incarnation, Mark
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
            await restoring.mark_replayed(db, uuid4(), Mark(), (), NOW)
        third = await restoring.mark_restored(db, NOW)
        with pytest.raises(FailedPrecondition):
            await restoring.mark_replayed(db, second, Mark(), (), NOW)
        await restoring.mark_replayed(db, third, Mark(), (), NOW)
        await first.refresh(db)
        first.admit()
        assert told == [True, False]


async def test_a_database_made_anew_from_another_waits_though_nobody_said_so(databases: Databases) -> None:
    _, settings = await olap(databases)
    async with database(settings) as db:
        first = await look(db)
        assert not first.restoring
        async with db.maintenance() as connection:
            await connection.execute("UPDATE incarnation SET seen_as = '7/7'")
        again = await look(db)
        assert again.restoring
        assert again.id != first.id
        # Once: whoever looks next sees the same life.
        assert (await look(db)).id == again.id


async def test_a_database_that_was_told_less_of_the_ledger_than_every_tier_waits(databases: Databases) -> None:
    _, settings = await olap(databases)
    async with database(settings) as db:
        seen = await look(db)
        assert await restoring.note(db, 0, Mark(5, "5" * 64), NOW) == Mark(5, "5" * 64)
        # What it was told stays, if it is further; and what every tier was told is not more.
        assert await restoring.note(db, 5, Mark(4, "4" * 64), NOW) == Mark(5, "5" * 64)
        await seen.refresh(db)
        seen.admit()
        await restoring.note(db, 6, Mark(9, "9" * 64), NOW)
        behind = await look(db)
        assert behind.restoring
        assert behind.id != seen.id
        # It is told on, and begins no other life while it waits.
        assert await restoring.note(db, 11, Mark(12, "c" * 64), NOW) == Mark(12, "c" * 64)
        assert (await look(db)).id == behind.id
        await restoring.mark_replayed(db, UUID(behind.id), Mark(10, "a" * 64), (), NOW)
        assert not (await look(db)).restoring
        assert await restoring.note(db, 12, Mark(), NOW) == Mark(12, "c" * 64)
        assert not (await look(db)).restoring


async def test_a_tenant_of_whom_something_was_not_replayed_waits_alone(databases: Databases) -> None:
    _, settings = await olap(databases)
    one, other = uuid4(), uuid4()
    async with database(settings) as db:
        life = await restoring.mark_restored(db, NOW)
        await restoring.mark_replayed(db, life, Mark(), (one,), NOW)
        seen = await look(db)
        seen.admit(other)
        with pytest.raises(Unavailable) as refused:
            seen.admit(one)
        # Who waits alone is told so: whoever calls for all leaves the others be.
        assert (refused.value.reason, refused.value.metadata["waits"]) == ("RESTORE_NOT_REPLAYED", "tenant")
        await restoring.mark_replayed(db, life, Mark(), (), NOW)
        await seen.refresh(db)
        seen.admit(one)


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
