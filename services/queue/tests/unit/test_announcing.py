"""Who waits is told when there may be jobs again."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from penguin_queue.domain.lanes import Lanes
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.news import News


@pytest.mark.parametrize("seconds", [[0.05], [3600, 0.05], [0.05, 3600], [3600, 1800, 0.05, 900]])
async def test_the_alarm_that_is_to_ring_first_does_so_whichever_was_set_first(seconds: list[float]) -> None:
    announcer = Announcer(News(None), Lanes())
    with announcer.waiting(("a",), 1) as waiter:
        for each in seconds:
            announcer.later("a", each)
        async with asyncio.timeout(10):
            await waiter.rung.wait()


async def test_an_alarm_that_was_set_before_a_sooner_one_rings_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    announcer = Announcer(News(None), Lanes())
    rings: asyncio.Queue[Collection[str]] = asyncio.Queue()
    monkeypatch.setattr(announcer, "found", rings.put_nowait)
    announcer.later("a", 0.05)
    announcer.later("a", 0.01)
    async with asyncio.timeout(10):
        assert [await rings.get(), await rings.get()] == [{"a"}, {"a"}]
        # And the next one can be set when all have rung.
        announcer.later("a", 0.01)
        assert await rings.get() == {"a"}
