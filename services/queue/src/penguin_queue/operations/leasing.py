"""Leases by turns: what this process knows of lanes decides whose jobs are asked for, and the database which there are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta

from penguin_chassis.clock import Now
from penguin_chassis.defects import places
from penguin_chassis.faults import Fault
from penguin_chassis.pool import Database
from penguin_queue.domain.jobs import Job, LeaseRef, Lot
from penguin_queue.domain.lanes import Lanes, reach
from penguin_queue.domain.limits import BUSY, PROBED, Rooms
from penguin_queue.domain.turns import Keyed, Lane, Place, Taken, Turn
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.desk import Desk
from penguin_queue.operations.rating import Capped, Rating, Wait
from penguin_queue.operations.returning import Returning, refs_in, refs_of
from penguin_queue.store.leases import Asked, LeaseStore, Outcome, Survey

log = logging.getLogger(__name__)

# How often lanes are surveyed at most, and at least (seconds); in between, so that surveys take no more than one part in SHARE of
# the time, however much there is to look at.
SHORTEST_S = 0.25
LONGEST_S = 5.0
SHARE = 50.0
# A look that somebody waits for is as good as the last one for so long (seconds), and for so many times as long as that one took.
FRESH_S = 0.02
FEW = 5.0
# Rounds of lanes that one lease looks at before it gives up for now.
ROUNDS_MAX = 50
# While the database is away the monitor watches it; this only looks whether it is back (seconds).
AWAY_S = 1.0

# Leases by these turns, as of a time.
Lease = Callable[[Sequence[Turn], datetime], Awaitable[tuple[list[Taken], Outcome]]]


class Leasing:
    """Leases from the lanes that are known here, and keeps knowing them."""

    def __init__(self, store: LeaseStore, lanes: Lanes, announcer: Announcer, rating: Rating, now: Now) -> None:
        self._store = store
        self._now = now
        self._rating = rating
        self._lanes = lanes
        self._announcer = announcer
        self._returning = Returning(store, announcer, now)
        self._desk = Desk(self._together, lambda jobs: self._returning.give_back(refs_of(jobs)))
        self._bounded = False
        self._limited = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._survey: Survey | None = None
        self._looked_at = -LONGEST_S
        self._cost_s = 0.0

    async def jobs(self, asked: Asked) -> list[Job]:
        """Lease what there is for these kinds, up to so many, together with whoever asks for the same at the same time. Where
        nothing is known, and the last look is a while ago, it looks."""
        if not self._lanes.knows(asked.kinds):
            await self.look(max(FRESH_S, FEW * self._cost_s))
        return await self._desk.ask(asked)

    async def _together(self, asked: Sequence[Asked]) -> list[list[Job]]:
        """Lease for several at once, of the same kinds; again where all that was found is put in line."""
        kept: list[list[Job]] = [[] for _ in asked]
        for _ in range(ROUNDS_MAX):
            kept, lined = await self._once_together(asked)
            if any(kept) or not lined:
                break
        return kept

    async def _once_together(self, asked: Sequence[Asked]) -> tuple[list[list[Job]], bool]:
        given: list[list[Job]] = [[] for _ in asked]

        async def lease(turns: Sequence[Turn], at: datetime) -> tuple[list[Taken], Outcome]:
            given[:], left = await self._store.lease(asked, turns, at)
            return [_taken(job) for found in given for job in found], left

        with self._returning.unless_done(lambda: refs_of(job for found in given for job in found)):
            waits = await self._by_turns(asked[0].kinds, sum(each.max_jobs for each in asked), lease)
            if waits:
                await self._put_in_line(
                    {ref: waits[ref.job_id] for found in given for ref in refs_of(found) if ref.job_id in waits}
                )
        return [[job for job in found if job.id not in waits] for found in given], bool(waits)

    async def lots(self, asked: Asked) -> list[Lot]:
        """Lease for a stream, as columns; again where all that was found is put in line. Where nothing is known nothing is
        asked of the database: surveys go on beside."""
        lots: list[Lot] = []
        for _ in range(ROUNDS_MAX):
            lots, lined = await self._lots_once(asked)
            if lots or not lined:
                break
        return lots

    async def _lots_once(self, asked: Asked) -> tuple[list[Lot], bool]:
        found: list[Lot] = []

        async def lease(turns: Sequence[Turn], at: datetime) -> tuple[list[Taken], Outcome]:
            lots, taken, left = await self._store.lease_lots(asked, turns, at)
            found.extend(lots)
            return taken, left

        with self._returning.unless_done(lambda: refs_in(found)):
            waits = await self._by_turns(asked.kinds, asked.max_jobs, lease)
            if not waits:
                return found, False
            await self._put_in_line({ref: waits[ref.job_id] for ref in refs_in(found) if ref.job_id in waits})
        return [rest for lot in found if (rest := lot.without(waits)).ids], True

    async def _by_turns(self, kinds: Sequence[str], wanted: int, lease: Lease) -> dict[int, Wait]:
        """Choose turns and lease by them until some are worth it; returns which of the jobs their rates do not let go."""
        for _ in range(ROUNDS_MAX):
            # A limit's jobs are leased by one call at a time, and one that meets another goes without.
            alone = self._lanes.limits.any_open(kinds, self._now())
            async with self._limited if alone else contextlib.nullcontext():
                taken, more = await self._round(kinds, wanted, lease)
            if taken or not more:
                waits = await self._rating.waits(taken)
                for queue, short in self._rating.lined(taken, waits).items():
                    (self._lanes.paces.fell_short if short else self._lanes.paces.flowed)(queue)
                return waits
            # All that were looked at have nothing to give, and are out of the way now.
        return {}

    async def _round(self, kinds: Sequence[str], wanted: int, lease: Lease) -> tuple[list[Taken], bool]:
        """What one choice of turns brought, and whether there may be lanes that it did not come to."""
        if not self._bounded:
            # What there is of rates and limits holds for the very first lease, too.
            await self.read_bounds()
        at = self._now()
        mark, chosen = self._lanes.mark, self._lanes.choose(kinds, wanted, at)
        capped = await self._rating.cap(chosen)
        turns = capped.turns
        for lane, seconds in capped.resting.items():
            self._lanes.rest(lane, at + timedelta(seconds=seconds))
            self._announcer.later(lane.kind, seconds)
        self._pace(capped, at)
        # Where nothing was to be had those have their turn that had no share, and could not be asked of.
        more = capped.unasked or len(chosen) >= reach(wanted)
        if not turns:
            return [], more
        limits = self._lanes.limits
        freed = limits.freed
        taken, left = await lease(turns, at)
        for each in taken:
            limits.given(each.lane.kind, each.ids)
        if left.rooms:
            self._bound(left.rooms, freed)
            more = more or (sum(turn.limited for turn in turns) >= reach(PROBED) and limits.any_open(kinds, at))
        self._lanes.leased(mark, turns, wanted, taken, spent=left.spent, rooms=left.rooms)
        if left.spent:
            self._announcer.more_of(kinds)
        for queue in await self._rating.give_back(capped, taken):
            self._lanes.paces.refilled(queue)
        return taken, more

    def _bound(self, rooms: Rooms, freed: Mapping[int, int]) -> None:
        """Go by what a lease from limited queues found."""
        limits = self._lanes.limits
        limits.found(rooms, freed, self._now())
        for kind in limits.kinds(queue for queue, room in rooms.items() if room is None):
            self._announcer.later(kind, BUSY.total_seconds())

    def _pace(self, capped: Capped, at: datetime) -> None:
        """Go by what the rates of whole queues let go."""
        paces = self._lanes.paces
        for queue in capped.flowing:
            paces.flowed(queue)
        for queue, seconds in capped.dry.items():
            for kind in paces.ran_dry(queue, at + timedelta(seconds=seconds)):
                self._announcer.later(kind, seconds)

    async def _put_in_line(self, waits: Mapping[LeaseRef, Wait]) -> None:
        at = self._now()
        lined = await self._store.put_in_line(waits, at)
        self._announcer.freed([ref.job_id for ref in waits])
        self._announcer.tell(lined, at)

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
        at = self._now()
        self._lanes.loads.sampled(*await self._store.in_flight(at), at)

    async def changed(self) -> None:
        """Queues were changed: go by what holds now. Should the database be away, the next survey does so."""
        self._announcer.look()
        with contextlib.suppress(Fault):
            await self.read_bounds()

    async def read_bounds(self) -> None:
        """Look which rates and limits there are."""
        # One after another, or what was read before a change could be what is gone by after it.
        async with self._reading:
            rated, limited = await self._store.bounds()
            self._lanes.limits.read(limited)
            self._rating.read(rated)
            self._lanes.paces.read(self._rating.queues)
            self._bounded = True


async def _keep_looking(db: Database, leasing: Leasing, announcer: Announcer) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        if not await db.wait_up(AWAY_S):
            continue
        started = clock()
        try:
            await leasing.read_bounds()
            await leasing.look()
            await leasing.weigh()
        except Exception as error:  # noqa: BLE001 - the next round tries again
            log.warning("survey failed: %s", type(error).__name__, extra={"places": places(error)})
        pause = min(max(SHORTEST_S, SHARE * (clock() - started)), LONGEST_S)
        await announcer.until_wanted(pause * random.uniform(0.9, 1.1))


def _taken(job: Job) -> Taken:
    keyed = [] if job.rate_key is None else [Keyed(job.id, job.rate_key, job.lined)]
    lane = Lane(job.priority, job.kind, job.tenant_id)
    return Taken(lane, 1, Place(job.rank, job.run_at, job.id), keyed, (job.id,))


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
