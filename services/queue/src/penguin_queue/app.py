"""The composition root: opens the database and Redis, builds operations and servicers, serves, and closes in
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
from penguin_queue.domain.lanes import Lanes
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.census import Census
from penguin_queue.operations.control import Control
from penguin_queue.operations.firing import Schedules, firing
from penguin_queue.operations.hearing import Hearing
from penguin_queue.operations.leasing import Leasing, surveying
from penguin_queue.operations.news import listening, news
from penguin_queue.operations.rating import Rating
from penguin_queue.operations.scaling import Scaling
from penguin_queue.operations.streams import Start, Stream, Unread
from penguin_queue.operations.sweeping import sweeping
from penguin_queue.operations.work import Work
from penguin_queue.servicers import registrations
from penguin_queue.servicers.queues import QueueAdminServicer
from penguin_queue.servicers.scaler import ScalerServicer
from penguin_queue.servicers.schedules import ScheduleServicer
from penguin_queue.store import DUTIES
from penguin_queue.store.census import CensusStore
from penguin_queue.store.control import ControlStore
from penguin_queue.store.fleet import FleetStore
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import KINDS, Kinds
from penguin_queue.store.leases import LeaseStore
from penguin_queue.store.queues import QueueStore
from penguin_queue.store.rates import Rates
from penguin_queue.store.redis import Guard, redis_at
from penguin_queue.store.schedules import ScheduleStore
from penguin_queue.store.settling import Settling
from penguin_queue.store.subjects import SubjectStore


@contextlib.asynccontextmanager
async def serving(config: QueueConfig) -> AsyncIterator[Running]:
    """Serve the tier until the block is left. Starts, and says it is ready, while database and Redis are down."""
    facts = tier.TierFacts(TIER, version("penguin-queue"), len(migrate.load("penguin_queue.migrations")))
    state = State()
    async with (
        database(config.pool()) as db,
        redis_at(config.redis_url) as redis,
        news(redis) as told,
    ):
        lanes = Lanes()
        announcer = Announcer(told, lanes)
        kinds = Kinds()
        jobs, leases = JobStore(db, kinds), LeaseStore(db, kinds, announcer.hurry)
        rating = Rating(Rates(redis, Guard("rates"), config.replicas))
        leasing = Leasing(leases, lanes, announcer, rating, db.now)
        work = Work(leases, leasing, jobs, announcer, Hearing(FleetStore(db)), db.now, draining=lambda: state.draining)
        control = Control(ControlStore(db, kinds), announcer)
        timetable = ScheduleStore(db, kinds, jobs)
        schedules = Schedules(timetable, announcer)

        unread = Unread()

        def stream(start: Start) -> Stream:
            return Stream(work, announcer, start, lambda: state.draining, unread)

        state.of(db)
        own = tier.registration(tier.TierServicer(facts, db, state, SubjectStore(db), ending=timetable.rest_all))
        census = Census(CensusStore(db), db.now)
        admin = QueueAdminServicer(QueueStore(db, kinds), census, leasing.changed)
        scaler = ScalerServicer(Scaling(census))
        clockwork = ScheduleServicer(schedules, timetable)
        async with (
            housekeeping(
                db,
                (
                    PRUNE,
                    state.closed.duty(),
                    state.incarnation.duty(),
                    *DUTIES,
                    Settling().duty(),
                    KINDS,
                    Duty("census", 5.0, census.measure),
                ),
            ),
            sweeping(db, work, announcer),
            surveying(db, leasing, announcer),
            listening(told, announcer.heard),
            firing(db, schedules),
            serve(
                config.server(),
                [own, *registrations(work, jobs, control, admin, clockwork, scaler, stream)],
                state,
                db.now,
            ) as running,
        ):
            yield running
