"""The composition root: opens the database and the buffer, builds operations and servicers, serves, and closes in
reverse order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from penguin_chassis import migrate, tier
from penguin_chassis.housekeeping import PRUNE, Duty, housekeeping
from penguin_chassis.pool import database
from penguin_chassis.server import Running, State, serve
from penguin_queue.config import TIER, QueueConfig
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.census import Census
from penguin_queue.operations.control import Control
from penguin_queue.operations.streams import Start, Stream
from penguin_queue.operations.sweeping import sweeping
from penguin_queue.operations.work import Work
from penguin_queue.servicers import registrations
from penguin_queue.servicers.queues import QueueAdminServicer
from penguin_queue.store import DUTIES
from penguin_queue.store.buffer import ready_buffer
from penguin_queue.store.census import CensusStore
from penguin_queue.store.control import ControlStore
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import LeaseStore
from penguin_queue.store.queues import QueueStore
from penguin_queue.store.wakes import TIES


@contextlib.asynccontextmanager
async def serving(config: QueueConfig) -> AsyncIterator[Running]:
    """Serve the tier until the block is left. Starts, and says it is ready, while database and buffer are down."""
    facts = tier.TierFacts(TIER, version("penguin-queue"), len(migrate.load("penguin_queue.migrations")))
    state = State()
    async with (
        database(config.pool()) as db,
        ready_buffer(config.redis_url) as buffer,
    ):
        announcer = Announcer(buffer)
        kinds = Kinds()
        jobs = JobStore(db, kinds)
        work = Work(LeaseStore(db, kinds, announcer.hurry), jobs, buffer, announcer, draining=lambda: state.draining)
        control = Control(ControlStore(db, kinds), announcer)

        def stream(start: Start) -> Stream:
            return Stream(work, announcer, start, lambda: state.draining)

        own = tier.registration(tier.TierServicer(facts, db, state))
        census = Census(CensusStore(db))
        admin = QueueAdminServicer(QueueStore(db, kinds), census)
        async with (
            housekeeping(db, (PRUNE, *DUTIES, TIES, Duty("census", 5.0, census.measure))),
            sweeping(db, work, announcer),
            serve(config.server(), [own, *registrations(work, jobs, control, admin, stream)], state) as running,
        ):
            yield running
