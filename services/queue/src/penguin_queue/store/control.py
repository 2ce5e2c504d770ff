"""The tenant's word on its jobs: cancelling and redriving them. What becomes of marked ones is the leases' store's to see to, by
`end_marked` and `end_lost` in its own transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import DeadFilter, LeaseRef, Preview, Ready
from penguin_queue.store.jobs import redriven
from penguin_queue.store.kinds import Kinds

sql = load("penguin_queue.store", "control.sql")

# How far what matches is counted, and how many ids a preview shows.
COUNTED = 100_000
SAMPLE = 20


@dataclass(frozen=True)
class Cancelled:
    """Ids of jobs that ended by a cancellation, and of those marked for it: in order."""

    ended: list[int]
    marked: list[int]


@dataclass(frozen=True)
class Redriven:
    """How many dead letters rose again, and how many more match."""

    count: int
    remaining: int


class ControlStore:
    """What tenants do to their jobs, each call within one tenant."""

    def __init__(self, db: Database, kinds: Kinds) -> None:
        self._db = db
        self._kinds = kinds

    async def cancel(self, step: Step, ids: Sequence[int]) -> Cancelled:
        """End jobs that wait, mark those that are leased."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Cancelled)) is not None:
                return done.reply
            rows = await connection.fetch(sql.cancel, step.tenant_id, list(ids), step.at)
            ended, marked = (sorted(row["id"] for row in rows if row["ended"] is each) for each in (True, False))
            return await barrier.record(connection, step, Cancelled(ended, marked), Cancelled)

    async def redrive_matching(self, step: Step, chosen: DeadFilter, limit: int) -> tuple[Redriven, list[Ready]]:
        """Make dead letters that match ready again, at most `limit`, in the order of their ids; returns how many, and the
        jobs risen by this very call."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Redriven)) is not None:
                return done.reply, []
            ids, matching = await self._dead(connection, step.tenant_id, chosen, limit)
            risen = await redriven(connection, self._kinds, step.tenant_id, ids, step.at)
            reply = Redriven(len(risen), matching - len(ids))
            return await barrier.record(connection, step, reply, Redriven), risen

    async def redrivable(self, tenant_id: UUID, chosen: DeadFilter, limit: int) -> Preview:
        """What redrive_matching would do."""
        async with self._db.tenant(tenant_id) as connection:
            ids, matching = await self._dead(connection, tenant_id, chosen, limit)
        return Preview(len(ids), ids[:SAMPLE], matching - len(ids))

    async def dead_among(self, tenant_id: UUID, ids: Sequence[int]) -> list[int]:
        """Those of these ids that are dead letters, in order."""
        async with self._db.tenant(tenant_id) as connection:
            return [row["id"] for row in await connection.fetch(sql.dead_among, tenant_id, list(ids))]

    async def _dead(
        self, connection: Connection, tenant_id: UUID, chosen: DeadFilter, limit: int
    ) -> tuple[list[int], int]:
        """The first ids that match, and how many match in all: COUNTED beyond those at most."""
        kinds: list[Any] = await self._kinds.known(connection, [chosen.kind]) if chosen.kind else [None]
        if not kinds:
            return [], 0
        where = (tenant_id, kinds[0], chosen.error_prefix, chosen.after, chosen.before)
        ids = [row["id"] for row in await connection.fetch(sql.dead_matching, *where, limit)]
        if len(ids) < limit:
            return ids, len(ids)
        return ids, await connection.fetchval(sql.count_dead_matching, *where, limit + COUNTED)


async def end_marked(
    connection: Connection, refs: Sequence[LeaseRef], at: datetime, *, errors: Sequence[str] = (), attempts: int = 0
) -> set[LeaseRef]:
    """End those of these jobs whose cancellation is wished, with the worker's words on them and so many more attempts;
    returns them."""
    ids, tokens = [ref.job_id for ref in refs], [ref.token for ref in refs]
    rows = await connection.fetch(sql.end_marked, ids, tokens, list(errors) or [""] * len(ids), at, attempts)
    return {LeaseRef(row["id"], row["lease_token"]) for row in rows}


async def end_lost(connection: Connection, at: datetime, limit: int) -> int:
    """End jobs whose cancellation is wished and whose lease has run out; returns how many, at most `limit`."""
    ended = await connection.execute(sql.end_marked_lost, at, limit)
    return int(ended.rsplit(" ", 1)[-1])
