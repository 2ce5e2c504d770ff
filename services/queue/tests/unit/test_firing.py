"""The loop that fires schedules: a round that fails is tried again after a while, and ends nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from penguin_chassis.pool import Database
from penguin_queue.operations import firing as module
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.firing import LONGEST_S, Schedules, firing
from penguin_queue.store.schedules import Fired, ScheduleStore

WRONG = "tenant 7's payload"


class Rounds:
    """A store and a database: rounds that fail and rounds that do not, and when each was, by a clock that only pauses move."""

    def __init__(self, patch: pytest.MonkeyPatch, *rounds: Fired | Exception) -> None:
        self.left = list(rounds)
        self.at: list[float] = []
        self.over = asyncio.Event()
        self.up = [True] * 100
        self._clock = 0.0
        # The loop's own pauses alone: servers of other tests may run beside.
        patch.setattr(module, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": self._pause}))
        patch.setattr(Schedules, "until_due", self._until_due)

    async def wait_up(self, _: float) -> bool:
        return self.up.pop()

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)

    async def fire(self, at: datetime, limit: int) -> Fired:
        self.at.append(self._clock)
        if not self.left:
            self.over.set()
            await asyncio.get_running_loop().create_future()
        each = self.left.pop(0)
        if isinstance(each, Exception):
            raise each
        return each

    async def _pause(self, seconds: float) -> None:
        self._clock += seconds

    async def _until_due(self, next_at: datetime | None, at: datetime) -> None:
        self._clock += 1000

    async def run(self) -> None:
        schedules = Schedules(cast(ScheduleStore, self), cast(Announcer, _Nobody()))
        async with asyncio.timeout(10), firing(cast(Database, self), schedules):
            await self.over.wait()


class _Nobody:
    def tell(self, *_: Any) -> None:
        pass


async def test_a_round_that_fails_is_tried_again_after_a_pause_and_tells_no_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    random.seed(3)
    rounds = Rounds(monkeypatch, *[RuntimeError(WRONG)] * 5, Fired([], more=False, next_at=None))
    with caplog.at_level(logging.WARNING):
        await rounds.run()
    pauses = [later - earlier for earlier, later in zip(rounds.at, rounds.at[1:], strict=False)]
    assert len(pauses) == 6
    assert all(0.2 * LONGEST_S <= pause <= 0.4 * LONGEST_S for pause in pauses[:5])
    # Servers that failed together do not come back together.
    assert len(set(pauses[:5])) == 5
    # What succeeds waits for the next time that something is due.
    assert pauses[5] == 1000
    assert [record.getMessage() for record in caplog.records] == ["firing failed: RuntimeError"] * 5
    assert WRONG not in caplog.text


async def test_a_round_that_leaves_some_goes_on_at_once_and_none_is_begun_while_the_database_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = Rounds(monkeypatch, Fired([], more=True, next_at=None), Fired([], more=True, next_at=None))
    rounds.up = [True, True, True, False, False]
    await rounds.run()
    assert rounds.at == [0, 0, 0]
    assert rounds.up == []
