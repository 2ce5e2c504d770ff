"""The tenants a tier knows of, and those that are closed: they read, and change nothing any more.

The gate asks a set in memory; this process changes it when it closes a tenant, and all refresh it from the database.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import COMPENSATION, Step
from penguin_chassis.housekeeping import Duty
from penguin_chassis.queries import load

if TYPE_CHECKING:
    from penguin_chassis.pool import Connection, Database

sql = load("penguin_chassis.sql", "tenancy.sql")

# What a tier ends of a tenant's in the transaction that closes it.
Ending = Callable[["Connection", Step], Awaitable[None]]

ACTIVE = "active"
CLOSED = "closed"
# How long a tenant that another process closed may go on here (seconds).
REFRESH_S = 3.0


@dataclass(frozen=True)
class TierTenant:
    """A tenant as the tier knows it; without `provisioned_at` it does not."""

    tenant_id: UUID
    state: str
    provisioned_at: datetime | None
    closed_at: datetime | None


@dataclass(frozen=True)
class Moved:
    """A tenant after a mutation, and whether it was this one that moved it: a compensation undoes nothing else."""

    tenant: TierTenant
    here: bool


class ClosedTenants:
    """The tenants that are closed here. Asked on every call: one look into a set."""

    def __init__(self) -> None:
        self._closed: frozenset[UUID] = frozenset()
        # Looks begun, and the one that was last heeded: an earlier look that comes back later says nothing.
        self._begun = 0
        self._heeded = 0

    def __contains__(self, tenant_id: object) -> bool:
        return tenant_id in self._closed

    async def refresh(self, db: Database, _: datetime | None = None) -> None:
        """Heed what has been written by now, by whichever process."""
        self._begun += 1
        look = self._begun
        async with db.maintenance() as connection:
            closed = frozenset(row["tenant_id"] for row in await connection.fetch(sql.closed))
        if look > self._heeded:
            self._heeded, self._closed = look, closed

    def duty(self) -> Duty:
        """The refresh as a duty."""
        return Duty("refresh_closed_tenants", REFRESH_S, self.refresh)


async def provision(db: Database, step: Step) -> TierTenant:
    """Make it known; one that is known stays as it is. As a compensation, take back what its action made."""
    return await _once(db, step, functools.partial(_make, step))


async def close(db: Database, step: Step, ending: Ending | None = None) -> TierTenant:
    """Let it change nothing any more, and end what goes on by itself. As a compensation, open what its action closed."""
    return await _once(db, step, functools.partial(_set, step, CLOSED, ending))


async def reopen(db: Database, step: Step, ending: Ending | None = None) -> TierTenant:
    """Let it change things again. As a compensation, close what its action opened."""
    return await _once(db, step, functools.partial(_set, step, ACTIVE, ending))


async def _once(db: Database, step: Step, act: Callable[[Connection], Awaitable[bool]]) -> TierTenant:
    async with db.tenant(step.tenant_id) as connection:
        if (done := await barrier.claim(connection, step, Moved)) is not None:
            return done.reply.tenant
        here = await act(connection)
        moved = Moved(await _get(connection, step.tenant_id), here=here)
        return (await barrier.record(connection, step, moved, Moved)).tenant


async def _make(step: Step, connection: Connection) -> bool:
    if step.operation == COMPENSATION:
        made = await barrier.undone(connection, step, Moved)
        if made is not None and made.here:
            await connection.execute(sql.remove, step.tenant_id)
        return made is not None and made.here
    return await connection.fetchval(sql.insert, step.tenant_id, ACTIVE, step.at, None) is not None


async def _set(step: Step, state: str, ending: Ending | None, connection: Connection) -> bool:
    if step.operation == COMPENSATION:
        moved = await barrier.undone(connection, step, Moved)
        if moved is None or not moved.here:
            return False
        state = ACTIVE if state == CLOSED else CLOSED
    if state == CLOSED and ending is not None:
        await ending(connection, step)
    closed_at = step.at if state == CLOSED else None
    if await connection.fetchval(sql.move, step.tenant_id, state, closed_at) is not None:
        return True
    if state == ACTIVE:
        return False  # active, or not known here, which is the same
    return await connection.fetchval(sql.insert, step.tenant_id, state, step.at, closed_at) is not None


async def _get(connection: Connection, tenant_id: UUID) -> TierTenant:
    row = await connection.fetchrow(sql.get, tenant_id)
    return TierTenant(tenant_id, ACTIVE, None, None) if row is None else TierTenant(**dict(row))
