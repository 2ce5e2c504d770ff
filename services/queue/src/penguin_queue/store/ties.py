"""Storing jobs that are tied to others. Locks are taken in one order: ordering keys, unique keys, jobs by id, batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis.faults import FailedPrecondition, Fault, NotFound
from penguin_chassis.pool import Connection, affected
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import NewJob
from penguin_queue.domain.ties import BatchProgress, Ties, Unique, held_key, over_for

sql = load("penguin_queue.store", "ties.sql")

DEAD, HELD = 4, 6
# Jobs that wait for a callback, directly or not, among which its new members' key is looked for.
WAITING_MAX = 10_000
NONE = Ties()
Key = tuple[int, str]


@dataclass
class _Plan:
    """What is to be written, as it is decided item by item."""

    at: datetime
    # The state of every job that the items name, by its number; who is not here is nowhere.
    states: Mapping[int, int]
    # Who has each key at first: job, holds, until.
    keys: Mapping[Key, tuple[int, int, datetime | None]]
    new: dict[int, NewJob] = field(default_factory=dict)
    waits: dict[int, list[int]] = field(default_factory=dict)
    # Who has each key in the end, where that is another than at first; and new contents of jobs that wait.
    taken: dict[Key, int] = field(default_factory=dict)
    replaced: dict[int, NewJob] = field(default_factory=dict)

    def add(self, n: int, job: NewJob, kind_id: int, waits_for: Sequence[tuple[int, str]]) -> int | Fault:
        """Decide on one item; its id, the negated id of the job that has its key, or why not."""
        ties = job.ties or NONE
        waits = []
        for awaited, name in waits_for:
            state = self._state(awaited)
            if over_for(state, run_if_failed=ties.run_if_failed):
                continue
            if state is None:
                return FailedPrecondition("There is no such job.", reason="REFERENCE_MISSING", field=name)
            if state in {5, 7}:
                return FailedPrecondition("This job has ended without being done.", reason="STATE_CONFLICT", field=name)
            waits.append(awaited)
        if ties.unique is not None:
            holder = self._holder((kind_id, ties.unique.key))
            if holder is not None:
                self._repeat(holder, job, replaces=ties.unique.replace)
                return -holder
            self.taken[kind_id, ties.unique.key] = n
        self.new[n] = job
        self.waits[n] = list(dict.fromkeys(waits))
        return n

    def _state(self, job_id: int) -> int | None:
        return 0 if job_id in self.new else self.states.get(job_id)

    def _holder(self, key: Key) -> int | None:
        if key in self.taken:
            return self.taken[key]
        job_id, holds, until = self.keys[key]
        return job_id if held_key(holds, until, self.states.get(job_id), self.at) else None

    def _repeat(self, holder: int, job: NewJob, *, replaces: bool) -> None:
        if not replaces:
            return
        if holder in self.new:
            first = self.new[holder]
            self.new[holder] = replace(job, ties=first.ties, traceparent=first.traceparent)
        elif self.states[holder] in {0, 1, HELD}:
            self.replaced[holder] = job


async def write_tied(
    connection: Connection,
    tenant_id: UUID,
    jobs: Sequence[tuple[int, NewJob]],
    numbers: Mapping[str, int],
    earlier: Callable[[int], int | None],
    at: datetime,
) -> tuple[list[int | Fault], list[tuple[int, NewJob]]]:
    """Store jobs and their ties. `earlier` tells the id of another item of the call by its index, where that was stored
    by an earlier call; `jobs` are numbered on from the call's first item.

    Returns answers in order (an id; negated, that of the job that has the item's unique key; a fault that names the
    item's field), and the jobs that can be leased from their run_at on, which are not all that are new.
    """
    await take_turns(connection, [(tenant_id, job.ties.ordering_key) for _, job in jobs if job.ties])
    keys = await _take_keys(connection, tenant_id, jobs, numbers, at)
    # A key that nobody had names the job of this call that has it now.
    named = {holder for holder, _, _ in keys.values()}.difference(n for n, _ in jobs)
    for _, job in jobs:
        ties = job.ties or NONE
        named.update(ties.waits_for, filter(None, map(earlier, ties.after_items)))
    plan = _Plan(at, await _states(connection, tenant_id, named), keys)
    answers: dict[int, int | Fault] = {}
    for n, job in jobs:
        waits_for = _awaited(job.ties or NONE, earlier, answers)
        answers[n] = waits_for if isinstance(waits_for, Fault) else plan.add(n, job, numbers[job.kind], waits_for)
    return list(answers.values()), await _carry_out(connection, tenant_id, plan, numbers)


def _awaited(
    ties: Ties, earlier: Callable[[int], int | None], answers: Mapping[int, int | Fault]
) -> list[tuple[int, str]] | Fault:
    found = [(job_id, f"waits_for[{i}]") for i, job_id in enumerate(ties.waits_for)]
    for i, index in enumerate(ties.after_items):
        name = f"waits_for_items[{i}]"
        own = earlier(index)
        answer = answers.get(own, own) if own is not None else None
        if not isinstance(answer, int):
            return FailedPrecondition("That item was not stored.", reason="REFERENCE_MISSING", field=name)
        found.append((abs(answer), name))
    return found


async def take_turns(
    connection: Connection, keys: Sequence[tuple[UUID, str]], *, growing: tuple[UUID, ...] = ()
) -> None:
    """Lock the order of these tenants' keys, those that are empty aside, until the transaction ends; and of tenants whose
    batches grow by jobs with keys the right to do so: two that did at once would not see that each waits for the other."""
    wanted = sorted({key for key in keys if key[1]} | {(tenant, "") for tenant in growing})
    if wanted:
        await connection.execute(sql.take_turns, [tenant for tenant, _ in wanted], [key for _, key in wanted])


async def _take_keys(
    connection: Connection,
    tenant_id: UUID,
    jobs: Sequence[tuple[int, NewJob]],
    numbers: Mapping[str, int],
    at: datetime,
) -> dict[Key, tuple[int, int, datetime | None]]:
    """Lock the jobs' unique keys; who has them now. A key that nobody had is told as held by nobody."""
    first: dict[Key, tuple[int, Unique]] = {}
    for n, job in jobs:
        if job.ties and job.ties.unique:
            first.setdefault((numbers[job.kind], job.ties.unique.key), (n, job.ties.unique))
    if not first:
        return {}
    rows = await connection.fetch(sql.take_keys, tenant_id, *_key_columns(list(first), list(first.values()), at))
    return {(row["kind_id"], row["key"]): (row["job_id"], row["holds"], row["until"]) for row in rows}


def _key_columns(keys: Sequence[Key], owners: Sequence[tuple[int, Unique]], at: datetime) -> tuple[Any, ...]:
    return (
        [kind_id for kind_id, _ in keys], [key for _, key in keys], [n for n, _ in owners],
        [unique.holds for _, unique in owners],
        [None if unique.holds_for is None else at + unique.holds_for for _, unique in owners],
    )  # fmt: skip


async def _states(connection: Connection, tenant_id: UUID, ids: set[int]) -> dict[int, int]:
    """Where these jobs stand, by numbers; those that are not over are locked, and dead letters are not redriven meanwhile."""
    if not ids:
        return {}
    found = await _look(connection, tenant_id, ids)
    # Those that are nowhere may have been redriven between the two statements of the look.
    if unsure := {job_id for job_id in ids if found.get(job_id, DEAD) == DEAD}:
        await connection.execute(sql.awaiting_dead, tenant_id)
        # Who had begun to redrive them has ended, and jobs only end.
        found = {n: state for n, state in found.items() if n not in unsure} | await _look(connection, tenant_id, unsure)
    return found


async def _look(connection: Connection, tenant_id: UUID, ids: set[int]) -> dict[int, int]:
    found = {row["id"]: row["state"] for row in await connection.fetch(sql.lock_jobs, tenant_id, sorted(ids))}
    # Only now, in a snapshot that has how the ones waited for have ended.
    missing = sorted(ids.difference(found))
    over = await connection.fetch(sql.over, tenant_id, missing) if missing else []
    return {row["id"]: row["state"] for row in over} | found


async def _carry_out(
    connection: Connection, tenant_id: UUID, plan: _Plan, numbers: Mapping[str, int]
) -> list[tuple[int, NewJob]]:
    owners = [(key, (n, plan.new[n].ties)) for key, n in plan.taken.items()]
    given = [(key, (n, ties.unique)) for key, (n, ties) in owners if ties and ties.unique]
    if given:
        await connection.execute(
            sql.give_keys, tenant_id, *_key_columns([k for k, _ in given], [o for _, o in given], plan.at)
        )
    pairs = [(awaited, n) for n, waits in plan.waits.items() for awaited in waits]
    awaited = {each for each, _ in pairs}
    if older := sorted(awaited.difference(plan.new)):
        await connection.execute(sql.mark_awaited, tenant_id, older)
    loose = await _replace(connection, tenant_id, plan) if plan.replaced else []
    if plan.new:
        states = await insert_tied(
            connection, tenant_id, list(plan.new.items()), numbers, plan.at,
            waits=[len(plan.waits[n]) for n in plan.new], awaited=[n in awaited for n in plan.new],
        )  # fmt: skip
        loose += [(n, job) for n, job in plan.new.items() if states[n] != HELD]
    if pairs:
        await connection.execute(sql.depend, tenant_id, [a for a, _ in pairs], [n for _, n in pairs])
    return loose


async def _replace(connection: Connection, tenant_id: UUID, plan: _Plan) -> list[tuple[int, NewJob]]:
    jobs = plan.replaced
    rows = await connection.fetch(
        sql.replace, tenant_id, list(jobs), [job.payload for job in jobs.values()],
        [job.run_at or plan.at for job in jobs.values()], [job.priority for job in jobs.values()],
        [job.rank for job in jobs.values()], [job.max_attempts for job in jobs.values()], plan.at,
    )  # fmt: skip
    return [(row["id"], jobs[row["id"]]) for row in rows if row["state"] != HELD]


async def insert_tied(
    connection: Connection,
    tenant_id: UUID,
    jobs: Sequence[tuple[int, NewJob]],
    numbers: Mapping[str, int],
    at: datetime,
    *,
    waits: Sequence[int] = (),
    awaited: Sequence[bool] = (),
    batch_id: int | None = None,
) -> dict[int, int]:
    """Store jobs; the state of each."""
    ties = [job.ties or NONE for _, job in jobs]
    rows = await connection.fetch(
        sql.insert, tenant_id, at, [n for n, _ in jobs], [numbers[job.kind] for _, job in jobs],
        [job.payload for _, job in jobs], [job.priority for _, job in jobs], [job.rank for _, job in jobs],
        [job.run_at or at for _, job in jobs], [job.max_attempts for _, job in jobs],
        [job.traceparent for _, job in jobs], [each.ordering_key for each in ties], waits or [0] * len(jobs),
        [each.run_if_failed for each in ties], awaited or [False] * len(jobs), batch_id,
        [job.rate_key for _, job in jobs],
    )  # fmt: skip
    return {row["id"]: row["state"] for row in rows}


async def open_batch(connection: Connection, tenant_id: UUID, callback_id: int, count: int, *, more: bool) -> None:
    """Begin to count a callback's members, so many to start with."""
    await connection.execute(sql.open_batch, tenant_id, callback_id, count, more)


async def grow_batch(
    connection: Connection, tenant_id: UUID, callback_id: int, count: int, ordering_key: str, *, more: bool
) -> None:
    """Add so many members of one key or none. Raises NotFound, and FailedPrecondition (STATE_CONFLICT) for a batch that takes
    no more, and for members that would stand behind a job that waits for the callback, and so for them."""
    name = "batch.callback_job_id"
    # Its row before the batch's, as the sweep does.
    await connection.execute(sql.lock_jobs, tenant_id, [callback_id])
    if ordering_key and await connection.fetchval(
        sql.waits_for_batch, tenant_id, callback_id, ordering_key, WAITING_MAX
    ):
        raise FailedPrecondition(
            "A job with this key waits for the batch.", reason="STATE_CONFLICT", field="ordering_key"
        )
    if await connection.execute(sql.grow_batch, tenant_id, callback_id, count, more) == "UPDATE 0":
        if await progress(connection, tenant_id, callback_id) is None:
            raise NotFound("batch", callback_id, field=name)
        raise FailedPrecondition("The batch takes no more jobs.", reason="STATE_CONFLICT", field=name)


async def progress(connection: Connection, tenant_id: UUID, callback_id: int) -> BatchProgress | None:
    """How far a callback's batch is; None for a job that is none's callback."""
    row = await connection.fetchrow(sql.batch, tenant_id, callback_id)
    return None if row is None else BatchProgress(**row)


async def before_redriving(connection: Connection, tenant_id: UUID, ids: Sequence[int]) -> None:
    """Before dead letters are redriven: their batches count them as dead no more, and of their keys nobody who stands behind them
    goes first."""
    rows = await connection.fetch(sql.dead_members, tenant_id, list(ids))
    if not rows:
        return
    spared = {row["job_id"] for row in await connection.fetch(sql.uncounted, tenant_id, [row["id"] for row in rows])}
    # After wakes and before any job: as the sweep does.
    await take_turns(connection, [(tenant_id, row["ordering_key"] or "") for row in rows])
    places: dict[str, int] = {}
    for row in rows:
        if key := row["ordering_key"]:
            places[key] = min(row["position"], places.get(key, row["position"]))
    behind = [row["id"] for row in await connection.fetch(sql.behind, tenant_id, list(places), list(places.values()))]
    ends = {row["id"]: row["batch_id"] for row in rows if row["batch_id"] is not None and row["id"] not in spared}
    batches = sorted(set(ends.values()))
    # Of both in the order of their ids.
    await connection.execute(sql.lock_held, sorted({*behind, *batches}))
    await connection.execute(sql.hold_back, behind)
    fewer = [-list(ends.values()).count(each) for each in batches]
    tenants, zeros = [tenant_id] * len(batches), [0] * len(batches)
    await connection.execute(sql.lock_batches, tenants, batches)
    await connection.execute(sql.count_ends, tenants, batches, zeros, fewer, zeros)


async def give_way(connection: Connection, rows: Sequence[Any]) -> bool:
    """After jobs were let go of that are not over: those before which a redriven one of their key stands are held, and wake it;
    whether wakes were left. Waits for nobody: the rows are locked, and a key that somebody has is seen to by the sweep."""
    tied = [row for row in rows if row["ordering_key"]]
    if not tied:
        return False
    keys = sorted({(row["tenant_id"], row["ordering_key"]) for row in tied})
    # Who redrives one of the key either has been, and is seen by the next statement, or waits until what it does is.
    taken = await connection.fetch(sql.try_turns, [tenant for tenant, _ in keys], [key for _, key in keys])
    free = {(row["tenant_id"], row["key"]) for row in taken}
    # He who has it may be redriving just now.
    busy = [row for row in tied if (row["tenant_id"], row["ordering_key"]) not in free]
    if busy:
        await connection.execute(
            sql.wake_keys, [row["tenant_id"] for row in busy], [row["id"] for row in busy],
            [row["ordering_key"] for row in busy],
        )  # fmt: skip
    held = await connection.execute(sql.give_way, [row["id"] for row in tied])
    return bool(busy or affected(held))
