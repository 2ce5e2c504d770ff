"""A tenant's jobs: storing and reading them. Leases are another store's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import COMPENSATION, REQUEST, Step
from penguin_chassis.faults import Fault, NotFound
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import (
    Attempt,
    Handover,
    Job,
    NewBatch,
    NewJob,
    Progress,
    QueueCount,
    Ready,
    arrived,
    arrived_batch,
)
from penguin_queue.domain.ties import Ties
from penguin_queue.store import attempts, ties
from penguin_queue.store.ids import JobIds
from penguin_queue.store.kinds import Kinds

sql = load("penguin_queue.store", "jobs.sql")

# States by the numbers that rows carry; what is over stands in tables of its own.
STATES = ("scheduled", "ready", "leased", "completed", "dead", "cancelled", "held", "discarded")
# What a caller calls a state, in those numbers.
ASKED: dict[str, tuple[int, ...]] = {
    "": (0, 1, 2, 3, 4, 5, 6, 7),
    "ready": (0, 1),
    "leased": (2,),
    "completed": (3,),
    "dead": (4,),
    "cancelled": (5,),
    "discarded": (7,),
    "held": (6,),
}
LAST = 2**63 - 1
Item = tuple[Step, NewJob]
# Payloads that one answer holds, but for the last of them (bytes): a message has 4 MiB.
PAYLOADS_MAX = 2 * 1024 * 1024


@dataclass(frozen=True)
class Numbered:
    """A batch's ids, as its stored answer."""

    first: int
    last: int
    # The job that runs when all are over, and whether this call stored it.
    callback: int = 0
    opened: bool = False

    @property
    def ids(self) -> range:
        """All of them."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True)
class Enqueued:
    """A batch that stands: as it is now, whether it is new, and whether it was leased as it was stored."""

    ids: range
    batch: NewBatch
    new: bool = False
    handed: bool = False
    callback: int = 0


def job_of(row: Any, kinds: Mapping[int, str]) -> Job:
    """A row of any of the three tables as the domain sees it."""
    fields = dict(row)
    fields["kind"] = kinds[fields.pop("kind_id")]
    fields["state"] = STATES[fields["state"]]
    fields["traceparent"] = fields["traceparent"] or ""
    fields["last_error"] = fields["last_error"] or ""
    if "result" in fields:
        told = [fields.pop(f"progress_{name}") for name in ("done", "total", "note", "at")]
        fields["progress"] = None if told[-1] is None else Progress(*told)
        fields["result"] = fields["result"] or ""
    return Job(**fields)


def ready_of(row: Any, kinds: Mapping[int, str]) -> Ready:
    """A row that can be leased from its run_at on."""
    return Ready(row["tenant_id"], row["id"], kinds[row["kind_id"]], row["priority"], row["run_at"], row["rank"])


class JobStore:
    """Jobs of one database, each call within one tenant."""

    def __init__(self, db: Database, kinds: Kinds) -> None:
        self._db = db
        self._kinds = kinds
        self._ids = JobIds()

    async def enqueue(
        self,
        tenant_id: UUID,
        items: Sequence[Item],
        *,
        gate: Step | None,
        at: datetime,
        handover: Handover | None = None,
    ) -> tuple[list[int | Fault], list[tuple[int, NewJob]], bool]:
        """Store jobs once each; a compensating `gate` takes back those of its action that nobody works on instead.

        Returns the answers in the order of `items` (a job's id, negated where that is the job which has the item's unique
        key; or why not), the jobs that are new with their ids, and
        whether they were leased as they were stored: with a `handover` they are, unless they rest or are limited.
        """
        items, faulty = _arrived(items, at)
        async with self._db.tenant(tenant_id) as connection:
            if gate is not None and gate.operation == COMPENSATION:
                ids = await self._withdraw(connection, gate)
                return [*ids, *[0] * (len(items) - len(ids))], [], False
            first = await self._ids.take(connection, len(items))
            right = [(step, (first + i, job)) for i, (step, job) in enumerate(items) if i not in faulty]
            stored: list[tuple[int, NewJob]] = []
            handed: list[bool] = []

            async def write(fresh: list[tuple[Step, tuple[int, NewJob]]]) -> Sequence[int | Fault | None]:
                kinds = {job.kind for _, (_, job) in fresh}
                numbers, refused = await self._kinds.numbers_or_faults(connection, kinds, tenant_id)
                kept = [each for each in fresh if each[1][1].kind not in refused]
                answers: Sequence[int | Fault | None] = [None] * len(kept)
                if any(job.ties for _, (_, job) in kept):
                    answers = await self._write_tied(connection, tenant_id, first, right, kept, numbers, stored, at)
                elif kept:
                    rows = [job for _, job in kept]
                    handed.append(await self._write(connection, tenant_id, rows, numbers, stored, at, handover))
                told = iter(answers)
                return [refused.get(job.kind) or next(told) for _, (_, job) in fresh]

            if gate is not None:
                await barrier.claim(connection, gate, list[int])
            done = await barrier.once_each(connection, right, int, write, foresee=lambda job: job[0]) if right else []
            if gate is not None:
                await barrier.record(
                    connection, gate, [each for each in done if isinstance(each, int) and each > 0], list[int]
                )
        answered = iter(done)
        answers = [faulty[i] if i in faulty else next(answered) for i in range(len(items))]
        return answers, stored, any(handed)

    async def add(
        self, connection: Connection, tenant_id: UUID, jobs: Sequence[NewJob], at: datetime
    ) -> list[tuple[int, NewJob]]:
        """Store jobs within another store's transaction, which knows by itself that they are new; returns them with their
        ids and with what their queues say of them."""
        first = await self._ids.take(connection, len(jobs))
        stored: list[tuple[int, NewJob]] = []
        numbers = await self._kinds.numbers(connection, {job.kind for job in jobs}, tenant_id)
        await self._write(connection, tenant_id, list(enumerate(jobs, first)), numbers, stored, at, None)
        return stored

    async def _write_tied(
        self,
        connection: Connection,
        tenant_id: UUID,
        first: int,
        items: Sequence[tuple[Step, tuple[int, NewJob]]],
        fresh: Sequence[tuple[Step, tuple[int, NewJob]]],
        numbers: Mapping[str, int],
        stored: list[tuple[int, NewJob]],
        at: datetime,
    ) -> list[int | Fault]:
        """Store jobs of which some are tied, and add to `stored` what can be leased; the answers."""
        new = {n for _, (n, _) in fresh}
        before = [(step, n) for step, (n, _) in items if n not in new]
        known = await barrier.answered(connection, [step for step, _ in before], int) if before else []
        ids = {n: n for n in new} | {n: abs(a) for (_, n), a in zip(before, known, strict=True) if a is not None}
        full = await self._terms(connection, tenant_id, [job for _, job in fresh], numbers)
        answers, loose = await ties.write_tied(connection, tenant_id, full, numbers, lambda i: ids.get(first + i), at)
        stored.extend(loose)
        return answers

    async def _write(
        self,
        connection: Connection,
        tenant_id: UUID,
        jobs: Sequence[tuple[int, NewJob]],
        numbers: Mapping[str, int],
        stored: list[tuple[int, NewJob]],
        at: datetime,
        handover: Handover | None,
    ) -> bool:
        """Store jobs and add them to `stored`, with what their queues say of them; whether they were handed over."""
        asked = {numbers[job.kind] for _, job in jobs}
        terms = {row["id"]: row for row in await connection.fetch(sql.terms, tenant_id, list(asked))}
        full = [(n, _on(job, terms[numbers[job.kind]])) for n, job in jobs]
        handed = handover is not None and all(row["unhindered"] for row in terms.values())
        if handover is not None:
            handover.ids.extend(n for n, _ in jobs)
        await _insert(connection, tenant_id, full, numbers, at, handover if handed else None)
        stored.extend(full)
        return handed

    async def enqueue_batch(self, step: Step, batch: NewBatch, handover: Handover | None = None) -> Enqueued:
        """Store all of a batch, or nothing. With a `handover` the jobs are leased as they are stored, unless they rest or
        are limited.

        A compensating `step` takes back those that nobody works on instead. Raises InvalidArgument as `arrived_batch`.
        """
        batch = arrived_batch(batch, step.at)
        if step.operation != REQUEST or batch.tied:
            return await self._enqueue_step(step, batch)
        kind_id, first = await self._prepared(step.tenant_id, batch)
        numbered = Numbered(first, first + len(batch.payloads) - 1)
        if handover is not None:
            handover.ids.extend(numbered.ids)
        (row,) = await self._db.one_trip(
            sql.enqueue_batch, step.tenant_id, step.key, step.digest, barrier.encoded(numbered, Numbered), step.at,
            *_columns(batch, kind_id, first, step.at, handover),
        )  # fmt: skip
        if row["fresh"]:
            full = replace(batch, priority=row["rated"], max_attempts=row["tries"])
            return Enqueued(numbered.ids, full, new=True, handed=row["handed"])
        return Enqueued(barrier.repeated(row, step, Numbered).ids, batch)

    async def _prepared(self, tenant_id: UUID, batch: NewBatch) -> tuple[int, int]:
        """The number of a batch's kind and the first of its ids: mostly known here already."""
        kind_id, first = self._kinds.cached(batch.kind), self._ids.at_hand(len(batch.payloads))
        if kind_id is None or first is None:
            async with self._db.tenant(tenant_id) as connection:
                kind_id = (await self._kinds.numbers(connection, [batch.kind], tenant_id))[batch.kind]
                first = await self._ids.take(connection, len(batch.payloads))
        return kind_id, first

    async def _enqueue_step(self, step: Step, batch: NewBatch) -> Enqueued:
        """A batch as a saga's action, or as what undoes it; or one that has more to it than the quick way knows."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Numbered)) is not None:
                return Enqueued(done.reply.ids, batch, callback=done.reply.callback)
            if step.operation == COMPENSATION:
                undone = await barrier.undone(connection, step, Numbered) or Numbered(0, -1)
                ids = [*undone.ids, *([undone.callback] if undone.opened else [])]
                await connection.execute(sql.withdraw, step.tenant_id, ids)
                return Enqueued((await barrier.record(connection, step, undone, Numbered)).ids, batch)
            if batch.tied:
                return await self._enqueue_tied(connection, step, batch)
            first = await self._ids.take(connection, len(batch.payloads))
            stored: list[tuple[int, NewJob]] = []
            numbers = await self._kinds.numbers(connection, {batch.kind}, step.tenant_id)
            jobs = list(enumerate(batch.jobs, first))
            await self._write(connection, step.tenant_id, jobs, numbers, stored, step.at, None)
            full = replace(batch, priority=stored[0][1].priority, max_attempts=stored[0][1].max_attempts)
            numbered = Numbered(first, first + len(stored) - 1)
            return Enqueued((await barrier.record(connection, step, numbered, Numbered)).ids, full, new=True)

    async def _enqueue_tied(self, connection: Connection, step: Step, batch: NewBatch) -> Enqueued:
        members, tenant_id, count = batch.members, step.tenant_id, len(batch.payloads)
        named = {batch.kind, *([members.callback.kind] if members and members.callback else [])}
        numbers = await self._kinds.numbers(connection, named, tenant_id)
        first = await self._ids.take(connection, count + 1)
        jobs = [replace(job, ties=Ties(ordering_key=batch.ordering_key)) for job in batch.jobs]
        grows = bool(members and members.callback is None and batch.ordering_key)
        await ties.take_turns(connection, [(tenant_id, batch.ordering_key)], growing=(tenant_id,) if grows else ())
        callback = members.callback_id if members else 0
        if members and members.callback is None:
            await ties.grow_batch(connection, tenant_id, callback, count, batch.ordering_key, more=members.more)
        elif members and members.callback is not None:
            callback = first + count
            await ties.open_batch(connection, tenant_id, callback, count, more=members.more)
            held = await self._terms(connection, tenant_id, [(callback, members.callback)], numbers)
            await ties.insert_tied(connection, tenant_id, held, numbers, step.at, waits=[count + members.more])
        full = await self._terms(connection, tenant_id, list(enumerate(jobs, first)), numbers)
        states = await ties.insert_tied(connection, tenant_id, full, numbers, step.at, batch_id=callback or None)
        opened = members is not None and members.callback is not None
        numbered = await barrier.record(
            connection, step, Numbered(first, first + count - 1, callback, opened), Numbered
        )
        as_stored = replace(batch, priority=full[0][1].priority, max_attempts=full[0][1].max_attempts)
        # Of one key the first at most is ready: the others are told of when it is their turn.
        new = states[first] != ties.HELD
        return Enqueued(numbered.ids, as_stored, new=new, callback=callback)

    async def _terms(
        self, connection: Connection, tenant_id: UUID, jobs: Sequence[tuple[int, NewJob]], numbers: Mapping[str, int]
    ) -> list[tuple[int, NewJob]]:
        """Jobs with what their queues say of them."""
        rows = await connection.fetch(sql.terms, tenant_id, list({numbers[job.kind] for _, job in jobs}))
        terms = {row["id"]: row for row in rows}
        return [(n, _on(job, terms[numbers[job.kind]])) for n, job in jobs]

    async def get(self, tenant_id: UUID, job_id: int) -> Job:
        """One job, wherever it stands; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            row = await connection.fetchrow(sql.get, tenant_id, job_id)
            if row is None:
                raise NotFound("job", job_id, field="job_id")
            found = job_of(row, await self._kinds.names(connection, [row["kind_id"]]))
            return replace(found, batch=await ties.progress(connection, tenant_id, job_id))

    async def list_page(self, tenant_id: UUID, *, before: int, state: str, kind: str, limit: int) -> list[Job]:
        """Up to `limit` jobs below an id, about newest first. `state` and `kind` may be empty: all."""
        async with self._db.tenant(tenant_id) as connection:
            known = await self._kinds.known(connection, [kind]) if kind else [None]
            if not known:
                return []
            rows = await connection.fetch(sql.list_page, tenant_id, before, ASKED[state], known[0], limit)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        return [job_of(row, kinds) for row in rows]

    async def payloads(self, tenant_id: UUID, ids: Sequence[int]) -> list[tuple[int, bytes | None]]:
        """Those of these jobs that there are, in the order of their ids, with their payloads as far as there is room."""
        async with self._db.tenant(tenant_id) as connection:
            return [tuple(row) for row in await connection.fetch(sql.payloads, tenant_id, list(ids), PAYLOADS_MAX)]

    async def list_attempts(
        self, tenant_id: UUID, job_id: int, before: tuple[datetime, int], limit: int
    ) -> list[Attempt]:
        """Up to `limit` attempts at a job that failed or were lost, before that time and number, newest first."""
        async with self._db.tenant(tenant_id) as connection:
            return await attempts.page(connection, tenant_id, job_id, before, limit)

    async def stats(self, tenant_id: UUID, at: datetime) -> tuple[list[QueueCount], datetime | None]:
        """The tenant's jobs that are still to be done by state and priority, and when the oldest due one became due."""
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.counts, tenant_id)
            return _counted(rows), await connection.fetchval(sql.oldest_due_at, tenant_id, at)

    async def history(self, tenant_id: UUID) -> list[QueueCount]:
        """The tenant's jobs that are over by state and priority: days of completed ones, and a year of dead letters."""
        async with self._db.tenant(tenant_id) as connection:
            return _counted(await connection.fetch(sql.counts_over, tenant_id))

    async def _withdraw(self, connection: Connection, gate: Step) -> list[int]:
        """Bar the step's action, and take back what it enqueued and nobody works on; returns the ids it had given."""
        if (done := await barrier.claim(connection, gate, list[int])) is not None:
            return done.reply
        ids = await barrier.undone(connection, gate, list[int]) or []
        await connection.execute(sql.withdraw, gate.tenant_id, ids)
        return await barrier.record(connection, gate, ids, list[int])


def _counted(rows: Sequence[Any]) -> list[QueueCount]:
    counts: dict[tuple[str, int], int] = {}
    for state, priority, count in rows:
        key = ("ready" if state == 0 else STATES[state], priority)
        counts[key] = counts.get(key, 0) + count
    return [QueueCount(state, priority, count) for (state, priority), count in sorted(counts.items())]


def _arrived(items: Sequence[Item], at: datetime) -> tuple[list[Item], dict[int, Fault]]:
    """Jobs as they are stored, and what is wrong with some by their places."""
    jobs, faulty = list(items), dict[int, Fault]()
    for i, (step, job) in enumerate(items):
        try:
            jobs[i] = step, arrived(job, at)
        except Fault as fault:
            faulty[i] = fault
    return jobs, faulty


def _on(job: NewJob, terms: Any) -> NewJob:
    """A job with what its queue says where it says nothing itself."""
    if job.priority and job.max_attempts:
        return job
    return replace(
        job, priority=job.priority or terms["priority"], max_attempts=job.max_attempts or terms["max_attempts"]
    )


def _columns(batch: NewBatch, kind_id: int, first: int, at: datetime, handover: Handover | None) -> tuple[object, ...]:
    return (
        first, batch.run_at or at, kind_id, batch.priority, batch.rank, batch.max_attempts, batch.traceparents,
        batch.payloads, *_lease(handover), batch.rate_key or None,
    )  # fmt: skip


async def _insert(
    connection: Connection,
    tenant_id: UUID,
    jobs: Sequence[tuple[int, NewJob]],
    numbers: Mapping[str, int],
    at: datetime,
    handover: Handover | None,
) -> None:
    await connection.execute(
        sql.insert, tenant_id, at, [n for n, _ in jobs], [numbers[job.kind] for _, job in jobs],
        [job.payload for _, job in jobs], [job.priority for _, job in jobs], [job.rank for _, job in jobs],
        [job.run_at or at for _, job in jobs], [job.max_attempts for _, job in jobs],
        [job.traceparent for _, job in jobs], [job.rate_key for _, job in jobs], *_lease(handover),
    )  # fmt: skip


def _lease(handover: Handover | None) -> tuple[int | None, datetime | None, str | None]:
    return (None, None, None) if handover is None else (handover.token, handover.until, handover.worker_id)
