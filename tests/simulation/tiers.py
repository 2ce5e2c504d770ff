"""The five tiers in one process: their own stores, operations and servicers over real databases, one database each for all
histories of a run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from tests.simulation.clock import VirtualLoop
from tests.simulation.network import Network, Process
from tests.simulation.servers import Server, Tokens
from tests.simulation.statements import TurnedConnection, Turns, go_by

import penguin_content.app
import penguin_content.servicers
import penguin_content.store.subjects
import penguin_notifications.servicers
import penguin_notifications.store.subjects
import penguin_olap.servicers
import penguin_oltp.app
import penguin_oltp.servicers
import penguin_oltp.store.subjects
import penguin_queue.servicers
import penguin_queue.store.subjects
from penguin_chassis import keys as chassis_keys
from penguin_chassis import tier as chassis_tier
from penguin_chassis.pool import Connection, Database, _no_reset, _Side
from penguin_chassis.server import Registration, State
from penguin_chassis.settings import PoolSettings
from penguin_devstack.pgfiles import socket_dir
from penguin_devstack.postgres import PostgresCluster
from penguin_devstack.roles import TierDatabase
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.erasure_ledger import ErasureLedger
from penguin_queue.domain.lanes import Lanes
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.census import Census
from penguin_queue.operations.control import Control
from penguin_queue.operations.firing import Schedules
from penguin_queue.operations.hearing import Hearing
from penguin_queue.operations.leasing import Leasing
from penguin_queue.operations.news import News
from penguin_queue.operations.rating import Rating
from penguin_queue.operations.scaling import Scaling
from penguin_queue.operations.work import Work
from penguin_queue.servicers.queues import QueueAdminServicer
from penguin_queue.servicers.scaler import ScalerServicer
from penguin_queue.servicers.schedules import ScheduleServicer
from penguin_queue.store.census import CensusStore
from penguin_queue.store.control import ControlStore
from penguin_queue.store.due import EVER
from penguin_queue.store.fleet import FleetStore
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.leases import LeaseStore
from penguin_queue.store.queues import QueueStore
from penguin_queue.store.rates import Rates
from penguin_queue.store.redis import Guard
from penguin_queue.store.schedules import ScheduleStore
from penguin_testkit.databases import Databases

TIERS = ("oltp", "content", "queue", "olap", "notifications")
APP, MAINTENANCE = 5, 3
KINDS = ("email.send", "campaign.complete")
# What the tiers' composition roots give them besides: where they hold storage keys, and their part in erasing people.
KEY_SOURCES = {"oltp": penguin_oltp.app.KEY_SOURCES, "content": penguin_content.app.KEY_SOURCES}
SUBJECTS: Mapping[str, Callable[[Database], Any]] = {
    "oltp": penguin_oltp.store.subjects.SubjectStore, "content": penguin_content.store.subjects.SubjectStore,
    "queue": penguin_queue.store.subjects.SubjectStore, "notifications": penguin_notifications.store.subjects.SubjectStore,
}  # fmt: skip
FORGET_FLEET = """UPDATE fleet SET heard = 0, lost = 0, at = NULL, away_since = NULL, away_until = NULL, heard_now = 0,
    lost_now = 0, lease = DEFAULT, heard_at = NULL"""


class SimulatedDatabase(Database):
    """A tier's database on the virtual clock, which stands still while anybody has a connection."""

    def __init__(self, settings: PoolSettings, app: Any, maintenance: Any, loop: VirtualLoop) -> None:
        super().__init__(settings, app, maintenance)
        self._loop = loop
        self._up.set()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._loop.wall(), UTC)

    async def _acquire(self, side: _Side, key: UUID | None) -> Connection:
        self._loop.busy += 1
        try:
            return await super()._acquire(side, key)
        except BaseException:
            self._loop.busy -= 1
            raise

    async def _give_back(self, side: _Side, key: UUID | None, connection: Connection) -> None:  # type: ignore[override]
        try:
            await super()._give_back(side, key, connection)
        finally:
            self._loop.busy -= 1


@dataclass
class World:
    """The tiers as callers have them, and their databases."""

    loop: VirtualLoop
    turns: Turns
    network: Network
    dbs: dict[str, SimulatedDatabase] = field(default_factory=dict)
    urls: dict[str, TierDatabase] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    # Past every policy, to see what there is.
    looking: dict[str, TurnedConnection] = field(default_factory=dict)
    work: Work | None = None
    leasing: Leasing | None = None
    # Of erasures, where there are any.
    ledger: ErasureLedger | None = None

    def process(self) -> Process:
        """Somebody who calls the tiers."""
        process = Process()
        process.tiers = {
            name: Tier(name, self.network.channel(name, process), Tokens())  # type: ignore[arg-type]
            for name in TIERS
        }
        return process

    async def rows(self, tier: str, query: str, *values: object) -> list[Any]:
        """What a tier has, over all its tenants."""
        self.loop.busy += 1
        try:
            return list(await self.looking[tier].fetch(query, *values))
        finally:
            self.loop.busy -= 1

    async def duties(self) -> None:
        """What time alone brings about: the queue's sweep, and its look at what there is."""
        assert self.work is not None
        assert self.leasing is not None
        await self.work.sweep(self.dbs["queue"].now(), EVER)
        await self.work.settle(self.dbs["queue"].now())
        await self.leasing.look()

    async def forget(self) -> None:
        """Let the queue know nothing of the workers of other histories."""
        await self.rows("queue", FORGET_FLEET)

    async def tidy(self) -> None:
        """Take dead rows away, which nobody else does: between two histories it is at the same moment in every run."""
        for tier in TIERS:
            await self.rows(tier, "VACUUM")

    def renew(self) -> None:
        """Start every tier's process anew: nothing of one history is known in the next, or it would not be the same alone."""
        self.network.renew()
        for name in TIERS:
            self.states[name] = State()
            self.states[name].refusals.of(self.dbs[name])
            self.network.servers[name] = _server(self, name)

    async def warm_up(self) -> None:
        """Let the queue know what kinds there are, as it does from its first job on."""
        numbers = Kinds()
        async with self.dbs["queue"].maintenance() as connection:
            await numbers.numbers(connection, set(KINDS), None)


async def _pool(url: str, size: int, near: dict[str, Any]) -> Any:
    # Never closed for being idle or having served for long, which would take real time; opened ahead, so that no history waits for
    # it.
    return await asyncpg.create_pool(
        url, min_size=size, max_size=size, reset=_no_reset, max_inactive_connection_lifetime=0, max_queries=1 << 62,
        connection_class=TurnedConnection, **near,
    )  # fmt: skip


def _near(cluster: PostgresCluster) -> dict[str, Any]:
    """The way to the server that costs least: a statement takes little longer than its way there and back."""
    return {"host": str(socket_dir(cluster.data_dir)), "port": cluster.port}


@contextlib.asynccontextmanager
async def world(loop: VirtualLoop, databases: Databases) -> AsyncIterator[World]:
    """The tiers, over clones of the migrated databases."""
    turns = Turns(loop)
    here = World(loop, turns, Network())
    async with contextlib.AsyncExitStack() as stack:
        # Connections are opened in real time.
        loop.busy += 1
        near = _near(databases.cluster)
        await turns.open(databases.cluster.superuser_dsn(), **near)
        stack.callback(turns.close)
        for name in TIERS:
            urls = here.urls[name] = await databases.clone(name)
            app, maintenance = (
                await _pool(urls.app_url, APP, near),
                await _pool(urls.maintenance_url, MAINTENANCE, near),
            )
            dsn = databases.cluster.superuser_dsn(urls.database)
            here.looking[name] = await asyncpg.connect(dsn, connection_class=TurnedConnection, **near)
            stack.callback(here.looking[name].terminate)
            stack.callback(app.terminate)
            stack.callback(maintenance.terminate)
            settings = PoolSettings(urls.app_url, urls.maintenance_url, max_size=APP)
            here.dbs[name] = SimulatedDatabase(settings, app, maintenance, loop)
        here.renew()
        await here.warm_up()
        loop.busy -= 1
        go_by(turns)
        stack.callback(go_by, None)
        yield here


def _server(here: World, name: str) -> Server:
    db, state = here.dbs[name], here.states[name]
    sources, subjects = KEY_SOURCES.get(name, ()), SUBJECTS.get(name)
    facts = chassis_tier.TierFacts(name, "0", 0, sources)
    servicer = chassis_tier.TierServicer(facts, db, state, subjects(db) if subjects is not None else None)
    own = [chassis_tier.registration(servicer), *([chassis_keys.registration(db, sources)] if sources else [])]
    return Server(name, [*own, *_registrations(here, name)], state, db.now)


def _registrations(here: World, name: str) -> list[Registration]:
    db = here.dbs[name]
    made: Mapping[str, Callable[[], list[Registration]]] = {
        "oltp": lambda: penguin_oltp.servicers.registrations(db),
        "content": lambda: penguin_content.servicers.registrations(db),
        "queue": lambda: _queue(here),
        "olap": lambda: penguin_olap.servicers.registrations(db, 0),
        "notifications": lambda: penguin_notifications.servicers.registrations(db, here.states[name]),
    }
    return made[name]()


def _queue(here: World) -> list[Registration]:
    """As the queue's composition root has it, without Redis and without what goes on by itself."""
    db = here.dbs["queue"]
    lanes, kinds, told = Lanes(), Kinds(), News(None)
    announcer = Announcer(told, lanes)
    jobs, leases = JobStore(db, kinds), LeaseStore(db, kinds, announcer.hurry)
    leasing = here.leasing = Leasing(leases, lanes, announcer, Rating(Rates(None, Guard("rates"), 1)), db.now)
    work = here.work = Work(leases, leasing, jobs, announcer, Hearing(FleetStore(db)), db.now)
    timetable = ScheduleStore(db, kinds, jobs)
    census = Census(CensusStore(db), db.now)
    return penguin_queue.servicers.registrations(
        work, jobs, Control(ControlStore(db, kinds), announcer), QueueAdminServicer(QueueStore(db, kinds), census, leasing.changed),
        ScheduleServicer(Schedules(timetable, announcer), timetable), ScalerServicer(Scaling(census)), _no_streams,
    )  # fmt: skip


def _no_streams(_: Any) -> Any:
    raise NotImplementedError
