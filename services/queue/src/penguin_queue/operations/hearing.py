"""What this process hears of workers, told to the others once a second: no word of a worker costs a statement of its own."""

from __future__ import annotations

from datetime import datetime, timedelta

from penguin_queue.domain.fleet import TOLD, WELL, Fleet, absent
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
        # Whether any were heard since the last look, and at which look they were that were heard last.
        self._spoken = False
        self._heard_at: datetime | None = None

    def heard(self, jobs: int) -> None:
        """Workers spoke of so many jobs in their hands."""
        self._heard += jobs
        self._spoken = self._spoken or jobs > 0

    def lost(self, leases: int) -> None:
        """So many leases have run out."""
        self._lost += leases

    def leased(self, lease: timedelta) -> None:
        """Somebody asks for leases of this length."""
        if self._lease is None or lease < self._lease:
            self._lease = lease

    async def fleet(self, at: datetime) -> Fleet:
        """The fleet as all processes know it, as of a second ago at most, and what was heard here since."""
        last = self._told_at
        if last is None or abs(at - last) >= TOLD:
            heard, lost = self._heard, self._lost
            if (known := await self._store.tell(heard, lost, at, self._lease)) is not None:
                # What has come meanwhile is for the next time; had it failed, all would be.
                self._known, self._heard, self._lost = known, self._heard - heard, self._lost - lost
                self._lease = None
            elif last is None or absent(last, at):
                # Another is just telling, and what is known here is from before the queue was away, if it was.
                self._known = await self._store.look(at)
            self._told_at = at
        if self._spoken:
            self._heard_at, self._spoken = at, False
        return self._known.with_news(self._heard, self._lost, self._heard_at or at)
