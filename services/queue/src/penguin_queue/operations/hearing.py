"""What this process hears of workers, told to the others once a second: no word of a worker costs a statement of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from penguin_queue.domain.fleet import WELL, Fleet
from penguin_queue.store.fleet import FleetStore

EVERY = timedelta(seconds=1)


class Hearing:
    """Sums of what was heard and lost since they were told last, and what all know."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._heard = 0
        self._lost = 0
        self._known = WELL
        self._told_at: datetime | None = None

    def heard(self, jobs: int) -> None:
        """Workers spoke of so many jobs in their hands."""
        self._heard += jobs

    def lost(self, leases: int) -> None:
        """So many leases have run out."""
        self._lost += leases

    async def fleet(self, at: datetime) -> Fleet:
        """The fleet as all processes know it, as of a second ago at most, and what was heard here since."""
        if self._told_at is None or abs(at - self._told_at) >= EVERY:
            heard, lost = self._heard, self._lost
            if (known := await self._store.tell(heard, lost, at)) is not None:
                # What has come meanwhile is for the next time; had it failed, all would be.
                self._known, self._heard, self._lost = known, self._heard - heard, self._lost - lost
            self._told_at = at
        return replace(self._known, heard=self._known.heard + self._heard, lost=self._known.lost + self._lost)
