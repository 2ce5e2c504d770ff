"""Leases as a process that was told nothing takes them: it looks at all lanes first."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from penguin_chassis.pool import Database
from penguin_queue.domain.fleet import WELL, Fleet
from penguin_queue.domain.jobs import Job, Lot
from penguin_queue.domain.lanes import Lanes
from penguin_queue.domain.turns import Lane, Place, Taken
from penguin_queue.store.due import EVER
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import Asked, LeaseStore, Swept


class Leases(LeaseStore):
    """A store that surveys before each lease."""

    def __init__(self, db: Database) -> None:
        super().__init__(db, Kinds())
        self.lanes = Lanes()

    async def lease_ready(self, asked: Asked, age: timedelta = timedelta(seconds=30)) -> list[Job]:
        """Lease what is ready at `age` before the lease's end."""
        mark = await self.look()
        turns = self.lanes.choose(asked.kinds, asked.max_jobs, asked.until - age)
        (found,) = (await self.lease([asked], turns, asked.until - age))[0] if turns else [[]]
        taken = [
            Taken(Lane(job.priority, job.kind, job.tenant_id), 1, Place(job.rank, job.run_at, job.id)) for job in found
        ]
        self.lanes.leased(mark, turns, asked.max_jobs, taken)
        return found

    async def lots(self, asked: Asked) -> list[Lot]:
        """Lease what is ready now, as columns."""
        await self.look()
        turns = self.lanes.choose(asked.kinds, asked.max_jobs, asked.until)
        return (await self.lease_lots(asked, turns))[0] if turns else []

    async def sweep(self, at: datetime, after: datetime = EVER, fleet: Fleet = WELL) -> Swept:
        """What time has brought, and then what follows from jobs that have left."""
        swept = await super().sweep(at, after, fleet)
        freed, more = await self.left.see_to(at)
        return replace(swept, ready=[*swept.ready, *freed], more=swept.more or more)

    async def look(self) -> int:
        """Survey all lanes; returns the mark to lease from."""
        mark = self.lanes.mark
        survey = await self.survey()
        assert not survey.more
        self.lanes.surveyed(mark, survey.heads, whole=True)
        return self.lanes.mark
