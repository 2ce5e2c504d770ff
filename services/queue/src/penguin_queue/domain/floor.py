"""From which row on there is anything to look for in a table that is emptied from its front. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# How long a transaction may take from where it has its number to where its row is seen, or it is found by a look at all.
LAG = timedelta(seconds=5)
# How often all is looked at.
WHOLE = timedelta(seconds=60)


@dataclass
class Floor:
    """What has gone stands there, as long as anybody holds a snapshot, until vacuum can remove it: to walk over it each time takes
    longer and longer. Before `below` nothing is left, but for rows of transactions that took long."""

    below: int = 0
    _marked: tuple[datetime, int] | None = None
    _whole_at: datetime | None = None

    def start(self, at: datetime) -> int:
        """After which row this look begins: now and then with the first."""
        if self._whole_at is not None and at - self._whole_at < WHOLE:
            return self.below
        self._whole_at = at
        return 0

    def looked(self, at: datetime, first: int | None, last: int | None) -> None:
        """The first and the last row that a look has seen; none where there is nothing."""
        if first is not None and first <= self.below:
            self.below = first - 1
        if self._marked is not None and at - self._marked[0] >= LAG:
            # Whatever was numbered before that is gone, or seen by now.
            passed = self._marked[1]
            self.below = max(self.below, passed if first is None else min(passed, first - 1))
            self._marked = None
        if self._marked is None and last is not None:
            self._marked = at, last
