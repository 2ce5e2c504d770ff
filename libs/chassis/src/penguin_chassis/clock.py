"""The tier's clock: its database's, which all of the tier's processes share, whatever their own clocks say. Stores and domains
are handed the time and do not read it here.

The database is asked now and then (`pool.Database.monitor`); in between, its time goes on by this process's monotonic clock, so
neither a wrong wall clock nor a jump of it ever shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from penguin_chassis import calls

Now = Callable[[], datetime]

# How fast two clocks may part while both are kept right (seconds a second): as fast as time daemons slew one.
DRIFT = 5e-4


def wall() -> datetime:
    """The time by this process's own clock, in UTC."""
    return datetime.now(UTC)


def now() -> datetime:
    """The time, in UTC: that of the tier whose call is in hand; this process's own where the tier has none, or outside of a
    call."""
    call = calls.current_call()
    return wall() if call is None or call.now is None else call.now()


@dataclass(frozen=True)
class _Reading:
    """What the database said, when it was half-way by the monotonic clock, and by how much that may be wrong (seconds)."""

    at: datetime
    half_way: float
    error_s: float

    def told(self, monotonic: float) -> datetime:
        return self.at + timedelta(seconds=monotonic - self.half_way)

    def error_by(self, monotonic: float) -> float:
        return self.error_s + DRIFT * (monotonic - self.half_way)


class DatabaseClock:
    """What time the database has it, as near as is known.

    Of several readings the one of the shortest trip is gone by, until a later one is the better for being young. Until the first
    it is the wall clock. That is safe: without a reading the database has not answered yet, and `pool.Database` refuses every
    transaction until it has; what is reckoned before goes into none.
    """

    def __init__(self, wall: Now | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._best: _Reading | None = None

    def now(self) -> datetime:
        """The time, in UTC. Never raises."""
        if self._best is None:
            return (self._wall or wall)()
        return self._best.told(self._monotonic())

    async def ask(self, question: Coroutine[Any, Any, datetime]) -> None:
        """Ask the database by awaiting this, which is one trip. Raises as it does."""
        sent = self._monotonic()
        at = await question
        self.heard(at, sent, self._monotonic())

    def heard(self, at: datetime, sent: float, received: float) -> None:
        """The database said `at` to a question sent and answered at these times (monotonic, seconds)."""
        new = _Reading(at, (sent + received) / 2, (received - sent) / 2)
        best = self._best
        if best is None or new.error_by(received) <= best.error_by(received) or self._disagree(best, new, received):
            self._best = new

    @staticmethod
    def _disagree(best: _Reading, new: _Reading, monotonic: float) -> bool:
        """Whether both cannot be right: the database's clock was set, another machine has its place, or ours stood still."""
        apart = abs((best.told(monotonic) - new.told(monotonic)).total_seconds())
        return apart > best.error_by(monotonic) + new.error_by(monotonic)
