"""A tenant's jobs: storing, reading and redriving them. Leases are another store's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import COMPENSATION, Step
from penguin_chassis.faults import AlreadyExists, Fault, NotFound
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import WAITING, Job, NewJob, QueueCount, Ready, check_payload

sql = load("penguin_queue.store", "jobs.sql")

# What a caller calls a state, in the store's words.
STATES: dict[str, tuple[str, ...]] = {
    "": (*WAITING, "leased", "completed", "dead"),
    "ready": WAITING,
    "leased": ("leased",),
    "completed": ("completed",),
    "dead": ("dead",),
}
_LAST = UUID(int=2**128 - 1)


def job_of(row: Any) -> Job:
    """A row of any of the three tables as the domain sees it."""
    return Job(**dict(row))


class JobStore:
    """Jobs of one database, each call within one tenant."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def enqueue(
        self, tenant_id: UUID, items: Sequence[tuple[Step, NewJob]], *, gate: Step | None, at: datetime
    ) -> tuple[list[UUID | Fault], list[Ready]]:
        """Store jobs once each; a compensating `gate` takes back those that nobody works on instead.

        Returns the answers in the order of `items` (a job's id, or why not), and the jobs that are new.
        """
        faulty: dict[int, Fault] = {}
        for i, (_, job) in enumerate(items):
            try:
                check_payload(job.payload)
            except Fault as fault:
                faulty[i] = fault
        right = [item for i, item in enumerate(items) if i not in faulty]
        stored: list[Ready] = []

        async def write(fresh: list[tuple[Step, NewJob]]) -> list[Fault | None]:
            answers, new = await _insert(connection, tenant_id, [job for _, job in fresh], at)
            stored.extend(new)
            return answers

        async with self._db.tenant(tenant_id) as connection:
            if gate is not None and await barrier.claim(connection, gate, bool) is None:
                await barrier.record(connection, gate, True, bool)
            if gate is not None and gate.operation == COMPENSATION:
                await connection.execute(sql.withdraw, tenant_id, [job.id for _, job in items])
                return [job.id for _, job in items], []
            done = iter(
                await barrier.once_each(connection, right, UUID, write, foresee=lambda job: job.id) if right else []
            )
        return [faulty[i] if i in faulty else next(done) for i in range(len(items))], stored

    async def get(self, tenant_id: UUID, job_id: UUID) -> Job:
        """One job, wherever it stands; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            row = await connection.fetchrow(sql.get, tenant_id, job_id)
        if row is None:
            raise NotFound("job", job_id, field="job_id")
        return job_of(row)

    async def list_page(self, tenant_id: UUID, *, before: UUID | None, state: str, kind: str, limit: int) -> list[Job]:
        """Up to `limit` jobs below an id, newest first. `state` and `kind` may be empty: all."""
        states = list(STATES[state])
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.list_page, tenant_id, before or _LAST, states, kind, limit)
        return [job_of(row) for row in rows]

    async def redrive(self, step: Step, ids: Sequence[UUID], at: datetime) -> tuple[list[UUID], list[Ready]]:
        """Make dead letters ready again with fresh attempts; returns their ids, and the jobs risen by this very call."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, list[UUID])) is not None:
                return done.reply, []
            rows = await connection.fetch(sql.redrive, step.tenant_id, list(ids), at)
            risen = [Ready(**dict(row)) for row in rows]
            return await barrier.record(connection, step, [job.id for job in risen], list[UUID]), risen

    async def stats(self, tenant_id: UUID, at: datetime) -> tuple[list[QueueCount], datetime | None]:
        """The tenant's jobs by state and priority, and when the oldest due one became due."""
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.counts, tenant_id)
            oldest = await connection.fetchval(sql.oldest_due_at, tenant_id, at)
        return [QueueCount(**dict(row)) for row in rows], oldest


async def _insert(
    connection: Connection, tenant_id: UUID, jobs: Sequence[NewJob], at: datetime
) -> tuple[list[Fault | None], list[Ready]]:
    timed = [job if job.run_at else replace(job, run_at=at) for job in jobs]
    columns = ("id", "kind", "payload", "priority", "run_at", "max_attempts", "traceparent")
    values = [[getattr(job, column) for job in timed] for column in columns]
    rows = await connection.fetch(sql.insert, tenant_id, at, *values)
    # Counted, not only looked up: an id that stands twice in the batch was inserted once.
    inserted = Counter(row["id"] for row in rows)
    answers: list[Fault | None] = []
    stored: list[Ready] = []
    for job in timed:
        if inserted[job.id]:
            inserted[job.id] -= 1
            answers.append(None)
            stored.append(Ready(tenant_id, job.id, job.kind, job.priority, job.run_at or at))
        else:
            answers.append(AlreadyExists("A job with this id exists.", field="id"))
    return answers, stored
