"""Leases of lanes that go by a rate: whom they are asked of, and which tokens go back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from penguin_queue.domain.jobs import Lot
from penguin_queue.domain.lanes import Lanes
from penguin_queue.domain.rates import Ask, Grant, Rate, Rated
from penguin_queue.domain.turns import Lane, Place, Taken, Turn
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.leasing import Leasing
from penguin_queue.operations.news import News
from penguin_queue.operations.rating import Rating
from penguin_queue.store.leases import Asked, Outcome
from penguin_queue.store.rates import Rates
from penguin_queue.store.redis import Guard

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, SECOND = Lane(2, "a", UUID(int=1)), Lane(2, "b", UUID(int=2))
FAST = Rate(1000.0, 1000)


class OneJob:
    """A store that has a job in the second lane, and none in the first: another process has leased that."""

    async def bounds(self) -> tuple[dict[str, Rated], dict[str, int]]:
        return self.rated, {}

    def __init__(self, rated: dict[str, Rated]) -> None:
        self.rated = rated
        self.leases = 0

    async def lease_lots(
        self, asked: Asked, turns: Sequence[Turn], at: datetime
    ) -> tuple[list[Lot], list[Taken], Outcome]:
        self.leases += 1
        if not any(turn.lane == SECOND for turn in turns):
            return [], [], Outcome({}, False)
        lot = Lot(SECOND.tenant_id, "b", 2, 7, asked.until, [9], [b"{}"], [AT], [3], [""])
        return [lot], [Taken(SECOND, 1, Place(0, AT, 9), ids=[9])], Outcome({}, False)


class Buckets(Rates):
    """Those of the first lane's queue are empty, where there are any; what goes back is written down."""

    def __init__(self) -> None:
        super().__init__(None, Guard("rates"))
        self.back: list[tuple[str, int]] = []

    async def take(self, asks: Sequence[Ask]) -> list[Grant]:
        return [
            Grant(0, 1.0, head_s=1.0) if any("slow" in name for name, _ in ask.buckets) else Grant(ask.count)
            for ask in asks
        ]

    async def give_back(self, name: str, rate: Rate, count: int, source: object) -> None:
        self.back.append((name, count))


@pytest.mark.parametrize(
    "rated",
    [
        {},
        {"b": Rated("fast", FAST, None, None)},
        {"b": Rated("fast", None, FAST, None)},
        {"a": Rated("slow", FAST, None, None), "b": Rated("fast", FAST, None, None)},
        {"a": Rated("slow", None, FAST, None), "b": Rated("fast", FAST, None, None)},
    ],
)
async def test_a_lease_finds_a_job_that_has_its_tokens_behind_a_lane_that_gives_nothing(
    rated: dict[str, Rated],
) -> None:
    store, lanes = OneJob(rated), Lanes()
    anyhow: Any = store
    leasing = Leasing(anyhow, lanes, Announcer(News(None), lanes), Rating(Buckets()), lambda: AT)
    lanes.told(FIRST, Place(0, AT, 1))
    lanes.told(SECOND, Place(0, AT, 9))
    found = await leasing.lots(Asked(("a", "b"), 1, AT + timedelta(seconds=30), "w"))
    assert [list(lot.ids) for lot in found] == [[9]]
    assert store.leases <= 2


async def test_of_a_queue_that_gets_its_first_rate_during_a_lease_no_tokens_go_back() -> None:
    buckets = Buckets()
    rating = Rating(buckets)
    capped = await rating.cap([Turn(FIRST, 2, 10, Place(0, AT, 1))])
    rating.read({"a": Rated("fast", FAST, FAST, None)})
    await rating.give_back(capped, [Taken(FIRST, 1, Place(0, AT, 1))])
    assert buckets.back == []


async def test_tokens_go_back_to_where_they_were_taken_whatever_the_rates_are_by_now() -> None:
    buckets = Buckets()
    rating = Rating(buckets)
    rating.read({"a": Rated("fast", FAST, None, None)})
    capped = await rating.cap([Turn(FIRST, 2, 10, Place(0, AT, 1))])
    rating.read({"a": Rated("other", None, FAST, None)})
    await rating.give_back(capped, [Taken(FIRST, 3, Place(0, AT, 3))])
    assert buckets.back == [("queue:fast", 7)]
