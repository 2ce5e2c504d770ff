"""The guards that stand between a mishap and a violation, each to be switched off where it stands: in the SQL that the stores run,
in the databases' own functions and policies, and in the domain; and acts that are said to be done, and are not. So it is seen that
the simulation would miss none of them."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import asyncpg
from tests.simulation.tiers import TIERS, World

from penguin_chassis import barrier, outbox, tenancy
from penguin_chassis.queries import Queries
from penguin_oltp.domain import emails, sagas
from penguin_oltp.store import campaigns, tenants
from penguin_queue.store import leases

Off = Callable[[World], contextlib.AbstractAsyncContextManager[None]]
PREDICATE = re.compile(r"\b(\w+\.)?tenant_id = \$1(?!\d)")
FUNCTIONS = "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND prokind = 'f'"
TABLES = "SELECT oid::regclass::text FROM pg_class WHERE relrowsecurity"


@contextlib.contextmanager
def _without(queries: Queries, name: str, guard: str, instead: str) -> Iterator[None]:
    """Let a named query lack its guard. Fails where it has none: the switch would be turned in vain."""
    text: str = getattr(queries, name)
    assert guard in text, f"{name} holds no {guard!r}"
    setattr(queries, name, text.replace(guard, instead))
    try:
        yield
    finally:
        setattr(queries, name, text)


async def _function(world: World, tier: str, name: str, guard: str, instead: str) -> None:
    """The same for a function of the database, which is thrown away with it."""
    connection = await _owner(world, tier)
    try:
        found = [row[0] for row in await connection.fetch(FUNCTIONS, name) if guard in row[0]]
        assert found, f"{name} holds no {guard!r}"
        for text in found:
            await connection.execute(text.replace(guard, instead))
    finally:
        connection.terminate()


async def _owner(world: World, tier: str) -> Any:
    return await asyncpg.connect(world.urls[tier].owner_url)


@contextlib.asynccontextmanager
async def _no_barrier(world: World) -> AsyncIterator[None]:
    """Every repeat is carried out as if it had not been before."""
    again = "ON CONFLICT (tenant_id, key, operation) DO UPDATE SET created_at = excluded.created_at"
    await _function(world, "queue", "hot_enqueue", "ON CONFLICT DO NOTHING", again)
    with _without(barrier.sql, "claim", "ON CONFLICT DO NOTHING", again):
        yield


@contextlib.asynccontextmanager
async def _no_job_token(world: World) -> AsyncIterator[None]:
    """A word on a job counts under whichever lease."""
    await _function(world, "queue", "complete_one_lease", " AND j.lease_token = token", "")
    with contextlib.ExitStack() as stack:
        for name in ("complete", "hold"):
            stack.enter_context(_without(leases.sql, name, " AND j.lease_token = r.token", ""))
        yield


@contextlib.asynccontextmanager
async def _no_attempt_fence(world: World) -> AsyncIterator[None]:
    """An email that another worker has in hand is given away like any other."""
    start = emails.start

    def start_anyhow(email: emails.Email, **more: Any) -> emails.Started:
        return start(replace(email, status=emails.QUEUED) if email.status == emails.SENDING else email, **more)

    emails.start = start_anyhow
    try:
        yield
    finally:
        emails.start = start


@contextlib.asynccontextmanager
async def _no_epoch(world: World) -> AsyncIterator[None]:
    """Whoever once owned a saga goes on writing its journal."""
    advance = sagas.advance

    def advance_anyhow(saga: sagas.Saga, told: sagas.Advance, at: Any) -> sagas.Saga:
        return advance(saga, replace(told, epoch=saga.owner_epoch), at)

    sagas.advance = advance_anyhow
    try:
        yield
    finally:
        sagas.advance = advance


@contextlib.asynccontextmanager
async def _no_row_lock(world: World) -> AsyncIterator[None]:
    """Two relays that look at the same time see the same rows."""
    with _without(outbox.sql, "lease", "FOR UPDATE SKIP LOCKED", ""):
        yield


@contextlib.asynccontextmanager
async def _no_row_token(world: World) -> AsyncIterator[None]:
    """A relay settles rows that have long been another's."""
    with contextlib.ExitStack() as stack:
        for name in ("settle_delivered", "settle_failed"):
            stack.enter_context(_without(outbox.sql, name, "AND o.lease_token = $3", "AND $3::uuid IS NOT NULL"))
        yield


@contextlib.asynccontextmanager
async def _no_tenancy(world: World) -> AsyncIterator[None]:
    """Neither do statements name their tenant, nor does a policy hold them to it."""
    for tier in TIERS:
        connection = await _owner(world, tier)
        for (table,) in await connection.fetch(TABLES):
            await connection.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        connection.terminate()
    before = [(queries, name, text) for queries in _all_queries() for name, text in queries.names().items()]
    try:
        for queries, name, text in before:
            setattr(queries, name, PREDICATE.sub("$1::uuid IS NOT NULL", text))
        yield
    finally:
        for queries, name, text in before:
            setattr(queries, name, text)


def _unwritten(state: str) -> Off:
    """A campaign that is moved there is said to have been, and stays what it was."""

    @contextlib.asynccontextmanager
    async def off(world: World) -> AsyncIterator[None]:
        kept = f"status = CASE $6::text WHEN '{state}' THEN status ELSE $6 END"
        with _without(campaigns.sql, "update", "status = $6", kept):
            yield

    return off


@contextlib.asynccontextmanager
async def _no_close(world: World) -> AsyncIterator[None]:
    """A tenant that is closed is said to be, and goes on in every tier."""
    with contextlib.ExitStack() as stack:
        kept = "CASE ${0}::text WHEN 'closed' THEN {1} ELSE ${0} END"
        for queries, name, guard, instead in (
            (tenancy.sql, "insert", "$2, $3, $4", kept.format(2, "'active'") + ", $3, $4"),
            (tenancy.sql, "move", "SET state = $2", "SET state = " + kept.format(2, "state")),
            (tenants.sql, "update", "status = $3", "status = " + kept.format(3, "status")),
        ):
            stack.enter_context(_without(queries, name, guard, instead))
        yield


def _all_queries() -> list[Queries]:
    """Every store's named queries."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("penguin_")]
    found = [each for module in modules for each in vars(module).values() if isinstance(each, Queries)]
    return list({id(each): each for each in found}.values())


GUARDS: dict[str, Off] = {
    "barrier": _no_barrier,
    "job-token": _no_job_token,
    "attempt": _no_attempt_fence,
    "saga-epoch": _no_epoch,
    "outbox-lock": _no_row_lock,
    "outbox-token": _no_row_token,
    "tenancy": _no_tenancy,
    "pause": _unwritten("paused"),
    "cancel": _unwritten("cancelled"),
    "close": _no_close,
}
# Where those begin that few histories miss: what comes before finds nothing, and takes its time. It is where they were found last,
# less a few, or where it is found soonest (a history that never comes to rest takes long); as histories change with the platform,
# it is a saving and nothing that is shown.
BEGINS = {"attempt": 54, "saga-epoch": 92, "outbox-lock": 28, "outbox-token": 70, "tenancy": 13}
