"""Who gets a connection when there are too few."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID, uuid4

import pytest

from penguin_chassis.fairness import FairPlaces
from penguin_chassis.faults import ResourceExhausted
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.roles import TierDatabase

GREEDY, SECOND, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)


async def test_nobody_may_hold_all_places_and_no_tenant_may() -> None:
    places = FairPlaces(8)
    for _ in range(6):
        await places.enter(GREEDY, 1)
    with pytest.raises(TimeoutError):
        await places.enter(GREEDY, 0.01)
    await places.enter(SECOND, 0.01)
    maintenance = FairPlaces(4)
    for _ in range(4):
        await maintenance.enter(None, 0.01)
    with pytest.raises(TimeoutError):
        await maintenance.enter(None, 0.01)


async def test_a_single_place_can_be_had() -> None:
    places = FairPlaces(1)
    for _ in range(3):
        await places.enter(GREEDY, 0.01)
        places.leave(GREEDY)


async def test_who_holds_the_fewest_is_served_first() -> None:
    places = FairPlaces(4)
    for key in (GREEDY, GREEDY, GREEDY, SECOND):
        await places.enter(key, 1)
    served: list[UUID] = []

    async def wait(key: UUID) -> None:
        await places.enter(key, 5)
        served.append(key)

    waiting = [asyncio.create_task(wait(key)) for key in (GREEDY, GREEDY, SECOND, THIRD)]
    await asyncio.sleep(0)
    assert places.waiting == 4
    for key in (GREEDY, GREEDY, GREEDY, SECOND):
        places.leave(key)
        await asyncio.sleep(0.01)
    # The third held nothing; then two held as much, and the one who waited longer came first, and to the end of the line.
    assert served == [THIRD, GREEDY, SECOND, GREEDY]
    await asyncio.gather(*waiting)


async def test_who_gives_up_leaves_no_place_behind() -> None:
    places = FairPlaces(2)
    await places.enter(GREEDY, 1)
    await places.enter(SECOND, 1)
    waiting = [asyncio.create_task(places.enter(THIRD, 5)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert places.waiting == 0
    # The place comes in the very turn of the loop in which its taker is cancelled.
    late = asyncio.create_task(places.enter(THIRD, 5))
    await asyncio.sleep(0)
    places.leave(GREEDY)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    await places.enter(GREEDY, 0.01)
    places.leave(GREEDY)
    places.leave(SECOND)
    await places.enter(None, 0.01)
    await places.enter(None, 0.01)


async def test_a_tenant_that_takes_all_it_can_shuts_nobody_out(urls: TierDatabase) -> None:
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=4, acquire_timeout_s=1.0)) as db:
        greedy = uuid4()

        async def hold(db: Database, tenant: UUID) -> None:
            async with db.tenant(tenant) as connection:
                await connection.execute("SELECT pg_sleep(1.5)")

        holding = [asyncio.create_task(hold(db, greedy)) for _ in range(40)]
        await asyncio.sleep(0.3)
        started = time.monotonic()
        async with db.tenant(uuid4()) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert time.monotonic() - started < 0.8
        outcomes = await asyncio.gather(*holding, return_exceptions=True)
        refused = [o for o in outcomes if isinstance(o, ResourceExhausted)]
        assert len(refused) == 37
        assert all(o.reason == "TENANT_QUOTA" and o.retry_after_s for o in refused)
