"""A tier's database: connections that are always some tenant's, inside one transaction, within the call's deadline.

It hands out no bare connection. Code asks for *a tenant's* transaction, so that a placement table can later map tenants to
clusters; cross-tenant duties ask for the maintenance role's by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from penguin_chassis import calls
from penguin_chassis.clock import DatabaseClock
from penguin_chassis.fairness import FairPlaces, again_s
from penguin_chassis.faults import DeadlineExceeded, ResourceExhausted, Unavailable, database_down
from penguin_chassis.settings import PoolSettings

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 2.0
# Connections that are opened at once, and how long a call waits for its turn before it is shed (seconds).
OPENING_MAX = 8
OPENING_TIMEOUT_S = 1.0
RELEASE_TIMEOUT_S = 1.0
# How long a server may take to give up what it was doing for a call that is gone (seconds).
ABANDON_TIMEOUT_S = 1.0
# How often the monitor looks at the database, and how long it waits before it calls it frozen (seconds).
HEARTBEAT_S = 1.0
HEARTBEAT_TIMEOUT_S = 2.0
RECONNECT_MIN_S = 0.1
RECONNECT_MAX_S = 1.0
# Left to the answer's way back to the client, so that the server gives up before the client does (seconds).
MARGIN_S = 0.02
# What goes wrong with a connection rather than with a statement.
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# How a connection shows at its first word that its server went away.
_GONE = (
    OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError,
)  # fmt: skip


class CommitError(Exception):
    """The transaction was broken before its end, and the server rolled it back where we asked it to commit."""


@dataclass(frozen=True)
class _Side:
    """One role's pool, and who may ask it for a connection now."""

    pool: Pool
    places: FairPlaces


async def _no_reset(_: object) -> None:
    # Every use is one transaction and every setting is SET LOCAL: nothing is left to reset, and a reset is a round trip.
    return None


class Database:
    """The tier's two pools (application and maintenance role) and the monitor that says whether it answers."""

    def __init__(self, settings: PoolSettings, app: Pool, maintenance: Pool) -> None:
        self._settings = settings
        self._clock = DatabaseClock()
        self._app = _Side(app, FairPlaces(app.get_max_size()))
        self._maintenance = _Side(maintenance, FairPlaces(maintenance.get_max_size()))
        self._up = asyncio.Event()
        self._doubt = asyncio.Event()
        # Rows that waited in the outbox when they were last counted (`outbox.measure`).
        self.owed = 0
        # Connections whose call was cut short, while the server is being told.
        self._abandoned: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether the database answered when it was last asked."""
        return self._up.is_set()

    def now(self) -> datetime:
        """The time by the clock that the tier's processes share, the database's. It costs no trip, and never raises."""
        return self._clock.now()

    @property
    def pool_size(self) -> int:
        """Connections open in the application pool."""
        return self._app.pool.get_size()

    @property
    def pool_idle(self) -> int:
        """Connections of the application pool that nobody uses."""
        return self._app.pool.get_idle_size()

    @property
    def pool_max(self) -> int:
        """The most connections the application pool may hold."""
        return self._settings.max_size

    def tenant(self, tenant_id: UUID, *, beside: str = "") -> contextlib.AbstractAsyncContextManager[Connection]:
        """One transaction as `tenant_id`, committed on leaving, rolled back on an error.

        `beside`: it goes on beside others that name the same, and never beside one that took `alone` by that name. That is seen
        to before its first statement looks at anything, on the way of the transaction's own beginning.

        Raises Unavailable (database away), ResourceExhausted (no connection in time), DeadlineExceeded.
        """
        context = f"SET LOCAL app.current_tenant_id = '{tenant_id}'"
        if beside:
            context += f"; SELECT pg_advisory_xact_lock_shared(hashtext('{beside}'), hashtext('{tenant_id}'))"
        return self._transaction(self._app, tenant_id, context)

    async def one_trip(self, query: str, tenant_id: UUID, *arguments: object) -> list[asyncpg.Record]:
        """Call one of the named hot functions of the tier's own migrations: it takes the tenant first and sets it for itself.

        One round trip, and a transaction of its own, where `tenant` takes three and more. Raises as `tenant`; where one
        that writes does, it may have been done.
        """
        connection = await self._acquire(self._app, tenant_id)
        _begin()
        clean = False
        try:
            rows = await connection.fetch(query, tenant_id, *arguments, timeout=_budget())
            clean = True
        except TimeoutError:
            self._doubt.set()
            raise DeadlineExceeded from None
        except asyncpg.exceptions.InsufficientResourcesError:
            raise _no_room() from None
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
            self._doubt.set()
            raise
        finally:
            await self._release(self._app, tenant_id, connection, clean=clean)
        return rows

    def maintenance(self) -> contextlib.AbstractAsyncContextManager[Connection]:
        """One transaction of the maintenance role, across tenants: for duties that no tenant asks for."""
        return self._transaction(self._maintenance, None, "SET LOCAL app.current_tenant_id = ''")

    async def wait_up(self, timeout_s: float) -> bool:
        """Whether the database answers within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    @contextlib.asynccontextmanager
    async def _transaction(self, side: _Side, key: UUID | None, context: str) -> AsyncIterator[Connection]:
        connection = await self._acquire(side, key)
        clean = False
        try:
            budget = _budget()
            async with asyncio.timeout(budget):
                # The server gives a statement up before we do: that leaves the connection whole.
                milliseconds = max(1, int(max(budget - MARGIN_S, budget / 2) * 1000))
                try:
                    await connection.execute(f"BEGIN; {context}; SET LOCAL statement_timeout = {milliseconds}")
                except _GONE:
                    self._doubt.set()
                    raise database_down(untouched=_untouched()) from None
                _begin()
                try:
                    yield connection
                except (asyncio.CancelledError, GeneratorExit):
                    raise
                except BaseException:
                    if not connection.is_closed():
                        await connection.execute("ROLLBACK")
                        clean = True
                    raise
                if await connection.execute("COMMIT") != "COMMIT":
                    raise CommitError
                clean = True
        except TimeoutError:
            self._doubt.set()
            raise DeadlineExceeded from None
        except asyncpg.exceptions.InsufficientResourcesError:
            raise _no_room() from None
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
            self._doubt.set()
            raise
        finally:
            await self._release(side, key, connection, clean=clean)

    async def _acquire(self, side: _Side, key: UUID | None) -> Connection:
        """A connection within the call's time and the pool's; refused at once while the database is away."""
        if not self._up.is_set():
            raise database_down(untouched=_untouched())
        ends = asyncio.get_running_loop().time() + min(_budget(), self._settings.acquire_timeout_s)
        try:
            await side.places.enter(key, ends - asyncio.get_running_loop().time())
        except TimeoutError:
            self._doubt.set()
            raise ResourceExhausted(
                "The tier's connections are in use.", reason="TENANT_QUOTA", retry_after_s=again_s()
            ) from None
        try:
            if not self._up.is_set():
                raise database_down(untouched=_untouched())
            # Not the pool's own time-out, which makes a task of every acquisition.
            async with asyncio.timeout_at(ends):
                return await side.pool.acquire()
        except BaseException as error:
            side.places.leave(key)
            if isinstance(error, _BROKEN):  # time-outs are among them
                self._doubt.set()
                raise database_down(untouched=_untouched()) from None
            raise

    async def _release(self, side: _Side, key: UUID | None, connection: Connection, *, clean: bool) -> None:
        if clean or connection.is_closed():
            await self._give_back(side, key, connection)
            return
        task = asyncio.create_task(self._abandon(side, key, connection))
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

    async def _abandon(self, side: _Side, key: UUID | None, connection: Connection) -> None:
        """Take back a connection whose call was cut short, in the call's stead.

        The driver has asked the server to cancel what was under way, and the place is held until it has: or else calls that
        are begun and dropped would pile up in the server. One that does not answer (frozen) is cut off.
        """
        try:
            async with asyncio.timeout(ABANDON_TIMEOUT_S):
                await connection.execute("ROLLBACK")
        except _BROKEN:
            self._doubt.set()
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()
        finally:
            await self._give_back(side, key, connection)

    @staticmethod
    async def _give_back(side: _Side, key: UUID | None, connection: Connection) -> None:
        try:
            await side.pool.release(connection, timeout=RELEASE_TIMEOUT_S)
        except _BROKEN:
            with contextlib.suppress(asyncpg.InterfaceError):  # the pool has let go of it already
                connection.terminate()
        finally:
            side.places.leave(key)

    async def settled(self) -> None:
        """Wait until what was cut short has been taken back: seconds at the most, on a frozen server too."""
        await asyncio.gather(*self._abandoned, return_exceptions=True)

    async def monitor(self) -> None:
        """Keep asking the database whether it is there; runs until cancelled."""
        delay = RECONNECT_MIN_S
        while True:
            try:
                connection = await asyncpg.connect(
                    self._settings.app_url, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0
                )
            except Exception:  # noqa: BLE001 - whatever it was, the monitor must go on looking
                self._lose()
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, RECONNECT_MAX_S)
                continue
            delay = RECONNECT_MIN_S
            try:
                await self._watch(connection)
            finally:
                connection.terminate()

    async def _watch(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        asked = None
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                    # Prepared, so that an answer is one trip, and half of it is when the clock was read.
                    asked = asked or await connection.prepare("SELECT clock_timestamp()")
                    await self._clock.ask(asked.fetchval())
            except Exception:  # noqa: BLE001 - as above
                self._lose()
                return
            if not self._up.is_set():
                log.info("database answers")
                self._up.set()
            self._doubt.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._doubt.wait()

    def _lose(self) -> None:
        if self._up.is_set():
            log.warning("database does not answer")
        self._up.clear()


async def alone(connection: Connection, tenant_id: UUID, name: str) -> None:
    """Until its end no transaction of the tenant goes on beside this one that was begun `beside` the name: those under way have
    ended. Before anything is looked at or locked."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))", name, str(tenant_id))


def affected(command_tag: str) -> int:
    """How many rows a statement touched, by the tag that the server answers it with."""
    return int(command_tag.rsplit(" ", 1)[-1])


def _untouched() -> bool:
    """Whether the call in hand has begun no transaction yet."""
    call = calls.current_call()
    return call is not None and not call.begun


def _begin() -> None:
    call = calls.current_call()
    # None, one or more is all that is asked; a stream begins thousands.
    if call is not None and len(call.begun) < 2:
        call.begun.append(True)


def _no_room() -> Unavailable:
    """The server lacked what the transaction needs, a full disk mostly, and rolled it back: where the call has had no other,
    it has had no effect."""
    call = calls.current_call()
    return database_down(untouched=call is not None and len(call.begun) <= 1)


def _budget() -> float:
    """Seconds that the database may take of the call in hand; raises DeadlineExceeded where none is left."""
    budget = calls.remaining() - MARGIN_S
    if budget <= 0:
        raise DeadlineExceeded
    return budget


class _Opening:
    """Opens connections, a few at once, in turns between tenants.

    A tenant that suddenly has a hundred calls would else have the server start a hundred processes at once, and everybody else
    wait for them.
    """

    def __init__(self) -> None:
        self._places = FairPlaces(OPENING_MAX)

    async def __call__(self, *arguments: Any, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        call = calls.current_call()
        key = None if call is None else call.caller.tenant_id
        try:
            await self._places.enter(key, OPENING_TIMEOUT_S)
        except TimeoutError:
            raise ResourceExhausted(
                "The tier's connections are being opened.", reason="TENANT_QUOTA", retry_after_s=again_s()
            ) from None
        try:
            return await asyncpg.connect(*arguments, **options)
        finally:
            self._places.leave(key)


async def _create(url: str, max_size: int) -> Pool:
    # min_size 0: a process starts, and says it is ready, while its database is down.
    return await asyncpg.create_pool(
        url, min_size=0, max_size=max_size, timeout=CONNECT_TIMEOUT_S, reset=_no_reset,
        max_inactive_connection_lifetime=60.0, connect=_Opening(),
    )  # fmt: skip


@contextlib.asynccontextmanager
async def database(settings: PoolSettings) -> AsyncIterator[Database]:
    """Open the tier's pools and its monitor, which keeps the clock; closes both, without waiting for a frozen server."""
    app = await _create(settings.app_url, settings.max_size)
    maintenance = await _create(settings.maintenance_url, settings.maintenance_max_size)
    db = Database(settings, app, maintenance)
    watch = asyncio.create_task(db.monitor(), name="database-monitor")
    try:
        await db.wait_up(CONNECT_TIMEOUT_S)
        yield db
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        await db.settled()
        for pool in (app, maintenance):
            try:
                async with asyncio.timeout(RELEASE_TIMEOUT_S):
                    await pool.close()
            except _BROKEN:
                pool.terminate()
