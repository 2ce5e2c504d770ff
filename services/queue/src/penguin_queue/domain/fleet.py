"""Whether it is a job that kills its workers, or the workers as a whole that are away. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

# After so long half of what was heard and lost counts.
HALF_LIFE = timedelta(seconds=60)
# While the fleet is thought away a job may lose so many more leases before it is taken for poison: it is spared, but not for ever.
SPARED = 10
# The queue looks for leases that have run out at least once a second: when it has not for so long, it was away itself.
SILENCE = timedelta(seconds=5)
# How long its workers may take to be back after it.
GRACE = timedelta(seconds=10)


@dataclass(frozen=True)
class Fleet:
    """How many leases were ended by a word of their workers lately, and how many ran out without one, in all processes, as of
    when; and when the queue was away last."""

    heard: float
    lost: float
    at: datetime | None = None
    away_since: datetime | None = None
    away_until: datetime | None = None

    def told(self, heard: int, lost: int, at: datetime) -> Fleet:
        """As it is with what a process has heard and lost since it told of it last."""
        passed = max(at - self.at, timedelta(0)) if self.at else timedelta(0)
        kept = 0.5 ** (passed / HALF_LIFE)
        away = (self.at, at) if passed > SILENCE else (self.away_since, self.away_until)
        # Rounded, so that what is long past is nothing, and no number too small to be stored.
        return Fleet(
            round(self.heard * kept + heard, 6), round(self.lost * kept + lost, 6), max(self.at or at, at), *away
        )

    def spares(self, leases: int) -> int:
        """So many more leases have run out. How many a job may lose beyond its queue's limit just now: some while more run out
        than are spoken of, be they few or many."""
        return SPARED if self.lost + leases > self.heard else 0

    @property
    def excused(self) -> tuple[datetime | None, datetime | None]:
        """Leases that ran out after the one and not after the other are no loss: their workers could not speak."""
        return self.away_since, self.away_until and self.away_until + GRACE


# All that is lost is some job's doing.
WELL = Fleet(math.inf, 0.0)
