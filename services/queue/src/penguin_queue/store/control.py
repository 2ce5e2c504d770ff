"""The tenant's word on its jobs: cancelling, redriving, purging and reordering them. What becomes of marked ones is seen to
by the leases' store, which calls `end_marked` and `end_lost` in its own transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis import barrier, subjects
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database, affected
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import LEASE_LOST, DeadFilter, LeaseRef, Preview, PurgeFilter, Ready
from penguin_queue.store.jobs import ready_of
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.ties import before_redriving

sql = load("penguin_queue.store", "control.sql")
ties = load("penguin_queue.store", "ties.sql")

# As rows carry it.
READY = 1
# How far what matches is counted, and how many ids a preview shows.
COUNTED = 100_000
SAMPLE = 20
# By the state that is asked for: what matches (of history: with which outcome), and how it goes.
PURGES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "ready": (sql.matching_ready, sql.purge_jobs, ()),
    "held": (sql.matching_held, sql.purge_jobs, ()),
    "dead": (sql.matching_dead, sql.purge_dead_jobs, ()),
    "completed": (sql.matching_over, sql.purge_completed_jobs, (0,)),
    "cancelled": (sql.matching_over, sql.purge_completed_jobs, (1,)),
    "discarded": (sql.matching_over, sql.purge_completed_jobs, (2,)),
}


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


@dataclass(frozen=True)
class Purged:
    """How many jobs went, and whether there are more that match."""

    count: int
    more: bool


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

    async def redrive(self, step: Step, ids: Sequence[int]) -> tuple[list[int], list[Ready]]:
        """Make dead letters ready again with fresh attempts; returns their ids, and the jobs made ready by this very call."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, list[int])) is not None:
                return done.reply, []
            redriven, risen = await self._risen(connection, step, ids)
            return await barrier.record(connection, step, redriven, list[int]), risen

    async def redrive_matching(self, step: Step, chosen: DeadFilter, limit: int) -> tuple[Redriven, list[Ready]]:
        """Make dead letters that match ready again, at most `limit`, in the order of their ids; returns how many, and the
        jobs risen by this very call."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Redriven)) is not None:
                return done.reply, []
            ids, matching = await self._dead(connection, step.tenant_id, chosen, limit)
            redriven, risen = await self._risen(connection, step, ids)
            reply = Redriven(len(redriven), matching - len(ids))
            return await barrier.record(connection, step, reply, Redriven), risen

    async def _risen(self, connection: Connection, step: Step, ids: Sequence[int]) -> tuple[list[int], list[Ready]]:
        """Redrive; the ids of those that were, and those that are ready: the others wait in their keys' order."""
        await before_redriving(connection, step.tenant_id, ids)
        # The next statement sees all who wait for them.
        await connection.execute(ties.redriving, step.tenant_id)
        rows = await connection.fetch(sql.redrive, step.tenant_id, list(ids), step.at)
        kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        return sorted(row["id"] for row in rows), [ready_of(row, kinds) for row in rows if row["state"] == READY]

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
        kinds = await self._kinds_of(connection, chosen.kind)
        if not kinds:
            return [], 0
        where = (tenant_id, kinds[0], chosen.error_prefix, chosen.after, chosen.before)
        ids = [row["id"] for row in await connection.fetch(sql.dead_matching, *where, limit)]
        if len(ids) < limit:
            return ids, len(ids)
        return ids, await connection.fetchval(sql.count_dead_matching, *where, limit + COUNTED)

    async def purge(self, step: Step, chosen: PurgeFilter, limit: int) -> Purged:
        """Remove jobs that match and that nobody works on, at most `limit`, in the order of their ids.

        Raises FailedPrecondition (LEGAL_HOLD) while a hold stands on a person of the tenant's: no job tells whose it is.
        """
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Purged)) is not None:
                return done.reply
            # Before any row is locked.
            await connection.execute(subjects.sql.no_new_holds)
            await subjects.check_people(connection, step.tenant_id)
            ids, more = await self._matching(connection, step.tenant_id, chosen, limit)
            gone = await connection.execute(PURGES[chosen.state][1], step.tenant_id, ids)
            if chosen.state == "dead":
                await connection.execute(ties.wake_dependents, step.tenant_id, ids)
            # What was passed over, somebody being at it, matches still.
            more = more or affected(gone) < len(ids)
            return await barrier.record(connection, step, Purged(affected(gone), more), Purged)

    async def purgeable(self, tenant_id: UUID, chosen: PurgeFilter, limit: int) -> tuple[list[int], bool]:
        """Ids of the jobs that purge would remove, and whether there are more. Raises what purge would."""
        async with self._db.tenant(tenant_id) as connection:
            await subjects.check_people(connection, tenant_id)
            return await self._matching(connection, tenant_id, chosen, limit)

    async def _matching(
        self, connection: Connection, tenant_id: UUID, chosen: PurgeFilter, limit: int
    ) -> tuple[list[int], bool]:
        kinds = await self._kinds_of(connection, chosen.kind)
        if not kinds:
            return [], False
        matching, _, outcome = PURGES[chosen.state]
        found = await connection.fetch(matching, tenant_id, kinds[0], chosen.created_before, limit + 1, *outcome)
        return [row["id"] for row in found[:limit]], len(found) > limit

    async def set_priority(
        self, step: Step, ids: Sequence[int], priority: int, rank: int | None
    ) -> tuple[list[int], list[Ready]]:
        """Give jobs that wait this priority, and this rank if there is one; returns their ids, and the jobs changed by this
        very call."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, list[int])) is not None:
                return done.reply, []
            rows = await connection.fetch(sql.set_priority, step.tenant_id, list(ids), priority, rank)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
            changed = sorted(row["id"] for row in rows)
            return await barrier.record(connection, step, changed, list[int]), [ready_of(row, kinds) for row in rows]

    async def _kinds_of(self, connection: Connection, kind: str) -> list[Any]:
        """The number of the kind that is asked for, None for all, or nothing where there is no such kind."""
        return await self._kinds.known(connection, [kind]) if kind else [None]


async def end_marked(
    connection: Connection, refs: Sequence[LeaseRef], at: datetime, *, errors: Sequence[str] = (), attempts: int = 0
) -> set[LeaseRef]:
    """End those of these jobs whose cancellation is wished, with the worker's words on them and so many more attempts;
    returns them."""
    ids, tokens = [ref.job_id for ref in refs], [ref.token for ref in refs]
    rows = await connection.fetch(sql.end_marked, ids, tokens, list(errors) or [""] * len(ids), at, attempts)
    return {LeaseRef(row["id"], row["lease_token"]) for row in rows}


async def end_lost(connection: Connection, at: datetime, limit: int, after: datetime) -> list[Any]:
    """End jobs whose cancellation is wished and whose lease has run out since `after`, at most `limit`; returns tenant, id and
    attempt."""
    return await connection.fetch(sql.end_marked_lost, at, limit, LEASE_LOST, after)
