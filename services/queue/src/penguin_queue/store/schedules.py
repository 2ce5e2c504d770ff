"""Schedules: kept for their tenants, and fired for all of them. Their jobs are stored as any others are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.faults import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import NewJob, Ready
from penguin_queue.domain.schedules import ALLOW, Schedule, Standing, Terms, Timing, Turn, next_after, turn
from penguin_queue.store.jobs import JobStore
from penguin_queue.store.kinds import Kinds

log = logging.getLogger(__name__)
sql = load("penguin_queue.store", "schedules.sql")

# Schedules are made by people, or by programs for them.
SCHEDULES_MAX = 1000
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Fired:
    """What one round of firing did: the jobs that are new, whether more schedules are due, and when the next one is."""

    ready: list[Ready]
    more: bool
    next_at: datetime | None


class ScheduleStore:
    """Schedules of one database."""

    def __init__(self, db: Database, kinds: Kinds, jobs: JobStore) -> None:
        self._db = db
        self._kinds = kinds
        self._jobs = jobs

    async def put(self, step: Step, terms: Terms) -> Schedule:
        """Make a schedule, or make it so. Raises ResourceExhausted (BACKLOG_FULL) for one or a kind too many."""
        async with self._db.tenant(step.tenant_id) as connection:
            # What is stored as the answer leaves out what the request says anyway.
            if (done := await barrier.claim(connection, step, Standing)) is not None:
                return Schedule(terms, done.reply)
            kind_id = (await self._kinds.numbers(connection, [terms.kind], step.tenant_id))[terms.kind]
            next_at = None if terms.paused else next_after(terms.timing, step.at)
            row = await connection.fetchrow(
                sql.put, step.tenant_id, terms.name, terms.timing.cron, terms.timing.time_zone, kind_id, terms.payload,
                terms.priority, terms.rank, terms.max_attempts, terms.missed_runs, terms.start_deadline // _MS,
                terms.overlap, terms.paused, next_at, step.at,
            )  # fmt: skip
            if await connection.fetchval(sql.count, step.tenant_id) > SCHEDULES_MAX:
                raise ResourceExhausted(
                    f"A tenant has {SCHEDULES_MAX} schedules at most.", reason="BACKLOG_FULL", field="schedule.name"
                )
            return Schedule(terms, await barrier.record(connection, step, _standing(row), Standing))

    async def get(self, tenant_id: UUID, name: str) -> Schedule:
        """One schedule without its payload; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            return await self._one(connection, sql.get, tenant_id, name)

    async def list_page(self, tenant_id: UUID, after: str, limit: int) -> list[Schedule]:
        """Up to `limit` schedules after a name, without their payloads."""
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.list_page, tenant_id, after, limit)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        return [_schedule(row, kinds) for row in rows]

    async def delete(self, step: Step, name: str) -> None:
        """End a schedule; raises NotFound."""
        async with self._db.tenant(step.tenant_id) as connection:
            if await barrier.claim(connection, step, str) is not None:
                return
            if await connection.fetchval(sql.delete, step.tenant_id, name) is None:
                raise NotFound("schedule", name, field="name")
            await barrier.record(connection, step, "", str)

    async def rest(self, step: Step, name: str, *, paused: bool) -> Schedule:
        """Let a schedule rest, or end its rest: it is then due at its next time from now. Raises NotFound."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Schedule)) is not None:
                return done.reply
            found = await self._one(connection, sql.lock, step.tenant_id, name)
            if found.terms.paused != paused:
                next_at = None if paused else next_after(found.terms.timing, step.at)
                await connection.execute(sql.rest, step.tenant_id, name, paused, next_at, step.at)
            found = await self._one(connection, sql.get, step.tenant_id, name)
            return await barrier.record(connection, step, found, Schedule)

    async def rest_all(self, connection: Connection, step: Step) -> None:
        """Let all of a tenant's schedules rest, in the caller's transaction: the one that closes it."""
        await connection.execute(sql.rest_all, step.tenant_id, step.at)

    async def run(self, step: Step, name: str) -> tuple[int, list[Ready]]:
        """Enqueue a schedule's job beside its times; returns its id, and the job if it is new.

        Raises NotFound, and FailedPrecondition where its runs must not overlap and the last one's job is not over.
        """
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, int)) is not None:
                return done.reply, []
            found = await self._one(connection, sql.lock, step.tenant_id, name)
            if found.terms.overlap != ALLOW and await _unfinished(connection, [found]):
                raise FailedPrecondition(
                    "Its last run is not over.", field="name", metadata={"resource": "schedule", "state": "running"}
                )
            ((job_id, job),) = await self._jobs.add(connection, step.tenant_id, [_job(found.terms)], step.at)
            standing = found.standing
            await connection.execute(sql.advance, step.tenant_id, name, standing.next_at, step.at, job_id, 0)
            ready = Ready(step.tenant_id, job_id, job.kind, job.priority, step.at, job.rank)
            return await barrier.record(connection, step, job_id, int), [ready]

    async def fire(self, at: datetime, limit: int) -> Fired:
        """Enqueue the jobs of schedules whose time has come, at most `limit` of these, and move them on: all in one
        transaction. Schedules that another has in hand are left to it."""
        async with self._db.maintenance() as connection:
            rows = await connection.fetch(sql.lock_due, at, limit)
            ready: list[Ready] = []
            if rows:
                kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
                found = [(row["tenant_id"], _schedule(row, kinds)) for row in rows]
                busy = await _unfinished(connection, [schedule for _, schedule in found])
                found.sort(key=lambda each: (each[0], each[1].terms.name))
                for tenant_id, of_tenant in groupby(found, key=lambda each: each[0]):
                    turns = [
                        (schedule, await self._turn(connection, tenant_id, schedule, at, busy))
                        for _, schedule in of_tenant
                    ]
                    ready += await self._start(connection, tenant_id, turns, at)
            return Fired(ready, len(rows) == limit, await connection.fetchval(sql.next_due))

    async def _turn(
        self, connection: Connection, tenant_id: UUID, schedule: Schedule, at: datetime, busy: set[int]
    ) -> Turn:
        standing, terms = schedule.standing, schedule.terms
        try:
            return turn(terms, standing.next_at or at, at, busy=standing.last_job_id in busy)
        except InvalidArgument:
            # Its zone is in no release of the rules any more: it must not keep all the others from running.
            log.warning("a schedule's time zone is gone; it rests now")
            await connection.execute(sql.rest, tenant_id, terms.name, True, None, at)
            return Turn([], 0, None)

    async def _start(
        self, connection: Connection, tenant_id: UUID, turns: list[tuple[Schedule, Turn]], at: datetime
    ) -> list[Ready]:
        """Store the jobs of one tenant's schedules and move these on."""
        new = [_job(schedule.terms) for schedule, taken in turns for _ in taken.runs]
        stored = await self._jobs.add(connection, tenant_id, new, at) if new else []
        moved, done = [], 0
        for schedule, taken in turns:
            done += len(taken.runs)
            ran = (taken.runs[-1], stored[done - 1][0]) if taken.runs else (None, None)
            moved.append((tenant_id, schedule.terms.name, taken.next_at, *ran, taken.missed))
        await connection.executemany(sql.advance, moved)
        return [Ready(tenant_id, job_id, job.kind, job.priority, at, job.rank) for job_id, job in stored]

    async def _one(self, connection: Connection, query: str, tenant_id: UUID, name: str) -> Schedule:
        row = await connection.fetchrow(query, tenant_id, name)
        if row is None:
            raise NotFound("schedule", name, field="name")
        return _schedule(row, await self._kinds.names(connection, [row["kind_id"]]))


async def _unfinished(connection: Connection, schedules: list[Schedule]) -> set[int]:
    """Ids of the last jobs of those whose runs must not overlap, if they are not over."""
    last = [each.standing.last_job_id for each in schedules if each.terms.overlap != ALLOW]
    return {row["id"] for row in await connection.fetch(sql.unfinished, last)} if any(last) else set()


def _job(terms: Terms) -> NewJob:
    return NewJob(terms.kind, terms.payload, terms.priority, terms.rank, None, terms.max_attempts, "")


def _standing(row: Any) -> Standing:
    return Standing(**{name: row[name] for name in Standing.__dataclass_fields__})


def _schedule(row: Any, kinds: Mapping[int, str]) -> Schedule:
    terms = Terms(
        name=row["name"], timing=Timing(row["cron"], row["time_zone"]), kind=kinds[row["kind_id"]],
        payload=row["payload"], priority=row["priority"], rank=row["rank"], max_attempts=row["max_attempts"],
        missed_runs=row["missed_runs"], start_deadline=row["start_deadline"] * _MS, overlap=row["overlap"],
        paused=row["paused"],
    )  # fmt: skip
    return Schedule(terms, _standing(row))
