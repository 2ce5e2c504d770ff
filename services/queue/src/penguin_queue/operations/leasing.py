"""Leases by turns: what this process knows of lanes decides whose jobs are asked for, and the database which there are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

from penguin_chassis.defects import places
from penguin_chassis.mutations import now
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import Job, Lot
from penguin_queue.domain.lanes import Lane, Lanes, Place
from penguin_queue.operations.announcing import Announcer
from penguin_queue.store.leases import Asked, LeaseStore, Survey

log = logging.getLogger(__name__)

# How often lanes are surveyed at most, and at least (seconds); in between, so that surveys take no more than one part in SHARE of
# the time, however much there is to look at.
SHORTEST_S = 0.25
LONGEST_S = 5.0
SHARE = 20.0
# A look that somebody waits for is as good as the last one for so long (seconds), and for so many times as long as that one took.
FRESH_S = 0.02
FEW = 5.0
# While the database is away the monitor watches it; this only looks whether it is back (seconds).
AWAY_S = 1.0


class Leasing:
    """Leases from the lanes that are known here, and keeps knowing them."""

    def __init__(self, store: LeaseStore, lanes: Lanes, announcer: Announcer) -> None:
        self._store = store
        self._lanes = lanes
        self._announcer = announcer
        self._looking = asyncio.Lock()
        self._survey: Survey | None = None
        self._looked_at = -LONGEST_S
        self._cost_s = 0.0

    async def jobs(self, asked: Asked) -> list[Job]:
        """Lease what there is for these kinds, up to so many. Where nothing is known, and the last look is a while ago, it
        looks."""
        mark, turns = self._lanes.mark, self._lanes.choose(asked.kinds, asked.max_jobs, now())
        if not turns:
            await self.look(max(FRESH_S, FEW * self._cost_s))
            mark, turns = self._lanes.mark, self._lanes.choose(asked.kinds, asked.max_jobs, now())
        if not turns:
            return []
        found = await self._store.lease(asked, turns)
        taken = [(Lane(job.priority, job.kind, job.tenant_id), Place(job.rank, job.run_at, job.id)) for job in found]
        self._lanes.leased(mark, turns, asked.max_jobs, taken)
        return found

    async def lots(self, asked: Asked) -> list[Lot]:
        """Lease for a stream, as columns. Where nothing is known nothing is asked of the database: surveys go on beside."""
        mark, turns = self._lanes.mark, self._lanes.choose(asked.kinds, asked.max_jobs, now())
        if not turns:
            return []
        lots, taken = await self._store.lease_lots(asked, turns)
        self._lanes.leased(mark, turns, asked.max_jobs, taken)
        return lots

    async def look(self, good_for_s: float = 0.0) -> float:
        """Survey the lanes, or those that the last survey did not come to, and tell who waits for what is news; not where the
        last survey is not that old yet. Returns how long one takes (seconds)."""
        clock = asyncio.get_running_loop().time
        async with self._looking:
            if clock() - self._looked_at < good_for_s:
                return self._cost_s
            started = clock()
            mark, after = self._lanes.mark, self._survey
            found = await self._store.survey(after)
            self._survey = found if found.more else None
            new = self._lanes.surveyed(mark, found.heads, whole=after is None and not found.more)
            self._looked_at = clock()
            self._cost_s = self._looked_at - started
        self._announcer.found({lane.kind for lane in new})
        return self._cost_s

    async def weigh(self) -> None:
        """Look how much of the workers each tenant has."""
        at = now()
        self._lanes.loads.sampled(*await self._store.in_flight(at), at)


async def _keep_looking(db: Database, leasing: Leasing, announcer: Announcer) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        if not await db.wait_up(AWAY_S):
            continue
        started = clock()
        try:
            await leasing.look()
            await leasing.weigh()
        except Exception as error:  # noqa: BLE001 - the next round tries again
            log.warning("survey failed: %s", type(error).__name__, extra={"places": places(error)})
        pause = min(max(SHORTEST_S, SHARE * (clock() - started)), LONGEST_S)
        await announcer.until_wanted(pause * random.uniform(0.9, 1.1))


@contextlib.asynccontextmanager
async def surveying(db: Database, leasing: Leasing, announcer: Announcer) -> AsyncIterator[None]:
    """Survey the lanes beside the block."""
    task = asyncio.create_task(_keep_looking(db, leasing, announcer), name="survey")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
