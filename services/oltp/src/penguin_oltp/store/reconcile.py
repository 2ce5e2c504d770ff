"""Receipts of reconcile: one run at a time, taken on by another where its caller has left it. All of it is the platform's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from penguin_chassis import barrier, outbox
from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists, FailedPrecondition, NotFound
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.reconcile import (
    AFTER_REFUSAL,
    FINISHED,
    LEASE,
    LEFT,
    PLATFORM,
    REFUSED,
    RESUMABLE,
    RUNNING,
    Finding,
    Progress,
    Run,
    Started,
    Terms,
    event_of,
    summed,
)

sql = load("penguin_oltp.store", "reconcile.sql")
# How long receipts are kept.
RETENTION = timedelta(days=365)


def _run(row: Any) -> Run:
    return Run(**{**dict(row), "counts": json.loads(row["counts"])})


def _progress(row: Any) -> Progress:
    return Progress(**{**dict(row), "counts": json.loads(row["counts"])})


class ReconcileStore:
    """Receipts of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def start(self, step: Step, run_id: UUID, owner: UUID, terms: Terms, min_interval: timedelta) -> Started:
        """Begin a run, or take on the one of these terms that was left.

        Raises FailedPrecondition (STATE_CONFLICT) while another caller is at one, or too soon after the last;
        AlreadyExists for its id.
        """
        async with self._db.maintenance() as connection:
            if (done := await barrier.claim(connection, step, Started)) is not None:
                return done.reply
            await connection.execute(sql.turn, PLATFORM)
            run = await _left(connection, owner, terms, step.at)
            if run is None:
                run = await _begun(connection, run_id, owner, terms, min_interval, step.at)
            progress = [_progress(row) for row in await connection.fetch(sql.progress, run.id)]
            return await barrier.record(connection, step, Started(run, progress), Started)

    async def record(
        self, step: Step, run_id: UUID, owner: UUID, progress: Progress, findings: Sequence[Finding]
    ) -> datetime:
        """Say how far a part has come; returns until when the run is its caller's. Raises NotFound, FailedPrecondition."""
        async with self._db.maintenance() as connection:
            if (done := await barrier.claim(connection, step, datetime)) is not None:
                return done.reply
            run = await _own(connection, run_id, owner)
            until = step.at + LEASE
            await connection.execute(sql.extend, run.tenant_id, run.id, until)
            await connection.execute(
                sql.put_progress, progress.tenant_id, run.id, progress.part, progress.to_generation, progress.done,
                json.dumps(dict(progress.counts)), step.at,
            )  # fmt: skip
            if findings:
                unique = {(f.tenant_id, f.kind, f.subject): f for f in findings}.values()
                columns = zip(*((f.tenant_id, f.kind, f.subject, f.source, f.action) for f in unique), strict=True)
                await connection.execute(sql.put_findings, run.id, step.at, *map(list, columns))
            return await barrier.record(connection, step, until, datetime)

    async def finish(self, step: Step, run_id: UUID, owner: UUID, refused_reason: str) -> Run:
        """End a run, sum it up, and owe the one event that it is worth. Raises NotFound, FailedPrecondition."""
        async with self._db.maintenance() as connection:
            if (done := await barrier.claim(connection, step, Run)) is not None:
                return done.reply
            run = await _own(connection, run_id, owner)
            counts = summed(_progress(row).counts for row in await connection.fetch(sql.progress, run.id))
            status = REFUSED if refused_reason else FINISHED
            row = await connection.fetchrow(
                sql.finish, run.tenant_id, run.id, status, refused_reason, step.at, json.dumps(counts)
            )
            run = _run(row)
            if (event := event_of(run)) is not None:
                id_ = uuid5(run.id, "admin_event")
                owed = outbox.Owed(id_, "notifications", "create_admin_events", {"events": [event]})
                await outbox.append(connection, run.tenant_id, [owed], step.at)
            return await barrier.record(connection, step, run, Run)

    async def last_progress(self, tenant_id: UUID, part: str) -> Progress | None:
        """How far the latest run that ended this part of a tenant has come; None where none has."""
        async with self._db.maintenance() as connection:
            row = await connection.fetchrow(sql.last_progress, tenant_id, part)
        return _progress(row) if row is not None else None

    async def get(self, run_id: UUID) -> Run:
        """One receipt; raises NotFound. What a run that is under way has counted so far is summed up for it."""
        async with self._db.maintenance() as connection:
            row = await connection.fetchrow(sql.get, run_id)
            if row is None:
                raise NotFound("reconcile_run", run_id, field="run_id")
            run = _run(row)
            if run.status != RUNNING:
                return run
            progress = await connection.fetch(sql.progress, run.id)
        return _run({**dict(row), "counts": json.dumps(summed(_progress(each).counts for each in progress))})

    async def list_runs(self, before: tuple[datetime, UUID], limit: int) -> list[Run]:
        """Up to `limit` receipts before (started_at, id), newest first."""
        async with self._db.maintenance() as connection:
            return [_run(row) for row in await connection.fetch(sql.list_runs, *before, limit)]

    async def list_findings(self, run_id: UUID, after: tuple[UUID, str, str], limit: int) -> list[Finding]:
        """Up to `limit` findings of a run after (tenant, kind, subject); raises NotFound for no such run."""
        async with self._db.maintenance() as connection:
            if await connection.fetchrow(sql.get, run_id) is None:
                raise NotFound("reconcile_run", run_id, field="run_id")
            rows = await connection.fetch(sql.list_findings, run_id, *after, limit)
        return [Finding(**dict(row)) for row in rows]


async def _left(connection: Connection, owner: UUID, terms: Terms, at: datetime) -> Run | None:
    """The run of these terms that its caller left, now this one's; others that were left are ended."""
    taken: Run | None = None
    for run in [_run(row) for row in await connection.fetch(sql.running)]:
        if run.leased_until > at:
            raise FailedPrecondition(
                "Another run is under way.", metadata={"resource": "reconcile_run", "state": RUNNING, "id": str(run.id)}
            )
        if taken is None and run.terms == terms and run.started_at > at - RESUMABLE:
            taken = _run(await connection.fetchrow(sql.take_on, run.tenant_id, run.id, owner, at + LEASE))
        else:
            await connection.execute(sql.leave, run.tenant_id, run.id, at, LEFT)
    return taken


async def _begun(
    connection: Connection, run_id: UUID, owner: UUID, terms: Terms, min_interval: timedelta, at: datetime
) -> Run:
    last = await connection.fetchval(sql.last_started, terms.tenant_id, terms.apply, at - AFTER_REFUSAL)
    if last is not None and last > at - min_interval:
        raise FailedPrecondition(
            "The last run has begun too short a while ago.", metadata={"resource": "reconcile_run", "state": "recent"}
        )
    row = await connection.fetchrow(
        sql.insert, terms.tenant_id, run_id, terms.apply, terms.grace_s, terms.cap, owner, at + LEASE, at
    )
    if row is None:
        raise AlreadyExists("A run with this id exists.", field="id")
    return _run(row)


async def _own(connection: Connection, run_id: UUID, owner: UUID) -> Run:
    """The run, if it is its caller's still."""
    row = await connection.fetchrow(sql.hold, run_id)
    if row is None:
        raise NotFound("reconcile_run", run_id, field="run_id")
    run = _run(row)
    if run.status != RUNNING or run.owner != owner:
        state = run.status if run.status != RUNNING else "another's"
        raise FailedPrecondition(
            "The run is not the caller's any more.", metadata={"resource": "reconcile_run", "state": state}
        )
    return run


async def remove_old(db: Database, at: datetime) -> None:
    """Forget receipts past their retention."""
    async with db.maintenance() as connection:
        for query in (sql.remove_old, sql.remove_old_progress, sql.remove_old_findings):
            await connection.execute(query, at - RETENTION)
