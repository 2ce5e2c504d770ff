"""Whether it is a job that kills its workers, or the workers as a whole that are away. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

# After so long half of what was heard and lost counts.
HALF_LIFE = timedelta(seconds=60)
# And, for what is just going on, after one part in so many of the shortest lease that is asked for: a busy minute must not hide
# that since then nobody has said a word, and who is well speaks of a job in hand two or three times in a lease.
PARTS = 6
# Each process tells of what it hears so often: what another has heard is so old.
TOLD = timedelta(seconds=1)
# What all have heard is known to all after this, even where they are busy: it is told by the next sweep, and looked for by the next.
KNOWN = 4 * TOLD
# What is taken for the shortest before anybody has asked for one, and the longest there can be.
LEASE, LONGEST = timedelta(seconds=30), timedelta(hours=1)
# While the fleet is thought away a job may lose so many more leases before it is taken for poison: it is spared, but not for ever.
SPARED = 10
# The queue looks for leases that have run out at least once a second: when it has not for so long, it was away itself.
SILENCE = timedelta(seconds=5)
# How long its workers may take to be back after it.
GRACE = timedelta(seconds=10)


@dataclass(frozen=True)
class Fleet:
    """How many leases were ended by a word of their workers lately, and how many ran out without one, in all processes, as of
    when; when the queue was away last; the same two as of just now; the shortest lease that is asked for; and when a word was
    heard last."""

    heard: float
    lost: float
    at: datetime | None = None
    away_since: datetime | None = None
    away_until: datetime | None = None
    heard_now: float = 0.0
    lost_now: float = 0.0
    lease: timedelta = LEASE
    heard_at: datetime | None = None

    def told(self, heard: int, lost: int, at: datetime, lease: timedelta | None = None) -> Fleet:
        """As it is with what a process has heard and lost since it told of it last, and the shortest lease that it gave."""
        passed = max(at - self.at, timedelta(0)) if self.at else timedelta(0)
        away = (self.at, at) if self.at and absent(self.at, at) else (self.away_since, self.away_until)
        # One that nobody asks for any more is forgotten within minutes, but from word to word only: those who are away as a whole
        # ask for none either, and how long they have been silent is measured by theirs.
        unheard = max(at - self.heard_at, timedelta(0)) if heard and self.heard_at else timedelta(0)
        shortest = min(lease or LONGEST, self.lease * 2 ** min(unheard / HALF_LIFE, 10.0), LONGEST)

        lately = min(max(shortest / PARTS, TOLD), HALF_LIFE)

        # Rounded, so that what is long past is nothing, and no number too small to be stored.
        def faded(before: float, half_life: timedelta) -> float:
            return round(before * math.pow(0.5, passed / half_life), 6)

        return Fleet(
            faded(self.heard, HALF_LIFE) + heard, faded(self.lost, HALF_LIFE) + lost, max(self.at or at, at), *away,
            faded(self.heard_now, lately) + heard, faded(self.lost_now, lately) + lost, shortest,
            at if heard else self.heard_at,
        )  # fmt: skip

    def with_news(self, heard: int, lost: int, at: datetime) -> Fleet:
        """The same with what came since it was told, the last word of it at `at`."""
        return replace(
            self, heard=self.heard + heard, lost=self.lost + lost,
            heard_now=self.heard_now + heard, lost_now=self.lost_now + lost,
            heard_at=max(at, self.heard_at or at) if heard else self.heard_at,
        )  # fmt: skip

    def spares(self, leases: int, at: datetime) -> int:
        """So many more leases have run out. How many a job may lose beyond its queue's limit just now: some while more run out
        than are spoken of, be they few or many, and be it in the last minutes or just now; and while nobody has said a word for
        half of a lease, for who is well speaks of a job in hand sooner, and all processes know of it soon after."""
        stalled = self.lost + leases > self.heard or self.lost_now + leases > self.heard_now
        silent = self.heard_at is not None and at - self.heard_at > max(self.lease / 2, KNOWN)
        return SPARED if stalled or silent else 0

    @property
    def excused(self) -> tuple[datetime | None, datetime | None]:
        """Leases that ran out after the one and not after the other are no loss: their workers could not speak."""
        return self.away_since, self.away_until and self.away_until + GRACE


def absent(last: datetime, at: datetime) -> bool:
    """Whether who has looked at these two moments, and not in between, was away."""
    return at - last > SILENCE


# All that is lost is some job's doing.
WELL = Fleet(math.inf, 0.0, heard_now=math.inf)
