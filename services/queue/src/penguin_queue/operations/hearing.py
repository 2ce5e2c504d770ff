"""What this process hears of workers, told to the others once a second: no word of a worker costs a statement of its own."""

from __future__ import annotations

from datetime import datetime, timedelta

from penguin_queue.domain.fleet import TOLD, WELL, Fleet
from penguin_queue.store.fleet import FleetStore


class Hearing:
    """Sums of what was heard and lost since they were told last, and what all know."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._heard = 0
        self._lost = 0
        self._lease: timedelta | None = None
        self._known = WELL
        self._told_at: datetime | None = None

    def heard(self, jobs: int) -> None:
        """Workers spoke of so many jobs in their hands."""
        self._heard += jobs

    def lost(self, leases: int) -> None:
        """So many leases have run out."""
        self._lost += leases

    def leased(self, lease: timedelta) -> None:
        """Somebody asks for leases of this length."""
        if self._lease is None or lease < self._lease:
            self._lease = lease

    async def fleet(self, at: datetime) -> Fleet:
        """The fleet as all processes know it, as of a second ago at most, and what was heard here since."""
        if self._told_at is None or abs(at - self._told_at) >= TOLD:
            heard, lost = self._heard, self._lost
            if (known := await self._store.tell(heard, lost, at, self._lease)) is not None:
                # What has come meanwhile is for the next time; had it failed, all would be.
                self._known, self._heard, self._lost = known, self._heard - heard, self._lost - lost
                self._lease = None
            self._told_at = at
        return self._known.with_news(self._heard, self._lost, at)
