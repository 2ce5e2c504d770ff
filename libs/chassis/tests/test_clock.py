"""The database's time as it is known between two answers: pure, every time is given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penguin_chassis import calls, clock
from penguin_chassis.clock import DRIFT, DatabaseClock
from penguin_chassis.pool import Database

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Scene:
    """A process with a monotonic clock and a wall clock that is set at will, and the clock under test."""

    def __init__(self) -> None:
        self.monotonic = 500.0
        self.wall = START + HOUR
        self.clock = DatabaseClock(lambda: self.wall, lambda: self.monotonic)

    def hear(self, off_s: float, trip_s: float = 0.002) -> None:
        """An answer that arrives now, of a database whose clock is so far from the true time, read half-way."""
        at = self.at(self.monotonic - trip_s / 2) + timedelta(seconds=off_s)
        self.clock.heard(at, self.monotonic - trip_s, self.monotonic)

    @staticmethod
    def at(monotonic: float) -> datetime:
        return START + timedelta(seconds=monotonic - 500.0)

    @property
    def off_s(self) -> float:
        """How far the clock is from the true time."""
        return (self.clock.now() - self.at(self.monotonic)).total_seconds()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_before_the_first_answer_it_is_the_wall_clock(scene: Scene) -> None:
    assert scene.clock.now() == START + HOUR
    scene.hear(0)
    assert scene.off_s == 0


def test_it_goes_on_by_the_monotonic_clock_whatever_the_wall_clock_does(scene: Scene) -> None:
    scene.hear(0)
    for wall in (START - HOUR, START + 24 * HOUR):
        scene.wall = wall
        scene.monotonic += 600
        assert scene.off_s == pytest.approx(0, abs=1e-6)


def test_half_of_a_trip_is_when_the_clock_was_read(scene: Scene) -> None:
    scene.clock.heard(START, 499.0, 500.0)
    assert scene.off_s == pytest.approx(0.5)


def test_of_several_trips_the_shortest_is_gone_by(scene: Scene) -> None:
    scene.hear(0.3, trip_s=1.0)  # as wrong as a trip of a second allows
    assert scene.off_s == pytest.approx(0.3)
    scene.hear(0, trip_s=0.002)
    assert scene.off_s == 0
    for _ in range(20):
        scene.monotonic += 1
        scene.hear(0.3, trip_s=1.0)
    assert scene.off_s == pytest.approx(0, abs=1e-6)


def test_a_reading_that_has_grown_old_gives_way_to_a_longer_trip(scene: Scene) -> None:
    scene.hear(0)
    scene.monotonic += 0.9 * 0.05 / DRIFT
    scene.hear(0.01, trip_s=0.1)
    assert scene.off_s == pytest.approx(0, abs=1e-6)
    scene.monotonic += 0.2 * 0.05 / DRIFT
    scene.hear(0.01, trip_s=0.1)
    assert scene.off_s == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("set_by_s", [3600.0, -3600.0, 0.2])
def test_a_clock_that_was_set_is_followed_at_once(scene: Scene, set_by_s: float) -> None:
    scene.hear(0)
    scene.monotonic += 1
    # By a longer trip, too: both cannot be right.
    scene.hear(set_by_s, trip_s=0.1)
    assert scene.off_s == pytest.approx(set_by_s, abs=1e-6)


async def test_a_database_that_is_asked_tells_its_own_time(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall", lambda: START)
    async with db.maintenance() as connection:
        before = db.now()
        theirs = await connection.fetchval("SELECT clock_timestamp()")
        after = db.now()
    slack = timedelta(milliseconds=50)
    assert before - slack < theirs < after + slack


def test_a_calls_time_is_that_of_the_tier_that_is_called() -> None:
    caller = calls.Caller("x", None, frozenset())
    token = calls.enter(calls.Call("/x/Y", caller, 0.0, now=lambda: START))
    try:
        assert clock.now() == START
        with calls.within(1.0):
            assert clock.now() == START
    finally:
        calls.leave(token)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
