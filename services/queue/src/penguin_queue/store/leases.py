"""Leases: who works on which job until when, across tenants. Every word on a lease is fenced by its token: a token that
another lease has replaced moves nothing."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any
from uuid import UUID

from penguin_chassis.pool import Connection, Database, affected
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import LEASE_LOST, Backoff, Failure, Job, LeaseRef, Lot, Ready, Snooze, retry_at
from penguin_queue.store import COMPLETED_RETENTION
from penguin_queue.store.control import end_lost, end_marked
from penguin_queue.store.jobs import job_of, ready_of
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.wakes import drain

sql = load("penguin_queue.store", "leases.sql")

# Rows that one round of a sweep moves; the next round follows at once.
SWEEP_LIMIT = 1000


@dataclass(frozen=True)
class Asked:
    """Who asks for a lease of which kinds (none: all), until when, and how many jobs it wants."""

    kinds: tuple[str, ...]
    max_jobs: int
    until: datetime
    worker_id: str


@dataclass(frozen=True)
class Swept:
    """What a sweep made ready, how many it buried, whether there is more, and when the next turn comes."""

    ready: list[Ready]
    buried: int
    more: bool
    next_at: datetime | None


class LeaseStore:
    """Leases of one database. `tied_left` is called when jobs have left that others may wait for."""

    def __init__(self, db: Database, kinds: Kinds, tied_left: Callable[[], None] = lambda: None) -> None:
        self._tied_left = tied_left
        self._db = db
        self._kinds = kinds
        # Where the next round among tenants begins: after the one that was served last.
        self._after = UUID(int=random.getrandbits(128))

    async def lease_ready(self, asked: Asked) -> list[Job]:
        """Lease ready jobs, high priority first, tenants and kinds in turn."""
        async with self._db.maintenance() as connection:
            return await self._jobs(connection, await self._take(connection, asked, new_token()))

    async def lease_lots(self, asked: Asked) -> list[Lot]:
        """Lease ready jobs as lease_ready does, as columns."""
        async with self._db.maintenance() as connection:
            token = new_token()
            rows = await self._take(connection, asked, token)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        groups = itertools.groupby(rows, key=itemgetter("tenant_id", "kind_id", "priority"))
        return [_lot(key, list(found), kinds, token, asked.until) for key, found in groups]

    async def _take(self, connection: Connection, asked: Asked, token: int) -> Sequence[Any]:
        wanted = await self._kinds.known(connection, asked.kinds)
        if asked.kinds and not wanted:
            return []
        rows: list[Any] = await connection.fetch(
            sql.lease_ready, self._after, asked.max_jobs, wanted, token, asked.until, asked.worker_id
        )
        if rows:
            self._after = rows[-1]["tenant_id"]
        return rows

    async def release(
        self, ids: Sequence[int], tokens: Sequence[int], at: datetime
    ) -> tuple[set[LeaseRef], list[Ready], set[LeaseRef]]:
        """Make jobs ready again as if they had not been leased; returns those that are, and those that were cancelled."""
        async with self._db.maintenance() as connection:
            # Locked in the order of their ids first, as by everybody who waits for locks.
            marked, held = _parted(await connection.fetch(sql.hold, ids, tokens))
            cancelled = await end_marked(connection, marked, at) if marked else set()
            rows = await connection.fetch(sql.release, [row["id"] for row in held])
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        return set(map(_ref, held)), [ready_of(row, kinds) for row in rows], cancelled

    async def lease_refs(self, ids: Sequence[int], asked: Asked) -> list[Job]:
        """Lease exactly those of these jobs that are still ready."""
        async with self._db.maintenance() as connection:
            rows = await connection.fetch(sql.lease_refs, ids, new_token(), asked.until, asked.worker_id)
            return await self._jobs(connection, rows)

    async def _jobs(self, connection: Connection, rows: Sequence[Any]) -> list[Job]:
        kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        return [job_of(row, kinds) for row in rows]

    async def extend(self, leases: Sequence[LeaseRef], until: datetime) -> tuple[set[LeaseRef], list[int]]:
        """Keep jobs in hand until then; returns those that still are the caller's, and the ids of those among them whose
        cancellation is wished."""
        async with self._db.maintenance() as connection:
            rows = await connection.fetch(sql.extend, *_columns(leases), until)
        return set(map(_ref, rows)), sorted(row["id"] for row in rows if row["cancel_wanted"])

    async def complete(self, ids: Sequence[int], tokens: Sequence[int], at: datetime) -> list[int]:
        """End jobs that are done, under one token each. Returns those that are not, neither by this call nor by an
        earlier one under the same lease: the lease is lost."""
        async with self._db.maintenance() as connection:
            if len(set(tokens)) == 1:
                (row,) = await connection.fetch(sql.complete_one_lease, sorted(set(ids)), tokens[0], at)
                done, tied = row["ended"], bool(row["tied"])
            else:
                found = await connection.fetch(sql.complete, ids, tokens, at)
                done, tied = len(found), any(row["tied"] for row in found)
            rows = []
            if done != len(ids):
                rows = await connection.fetch(sql.completed_before, ids, tokens, at - COMPLETED_RETENTION)
        if tied:
            self._tied_left()
        if done == len(ids):
            return []
        ended = {row["id"] for row in rows}
        return list(dict.fromkeys(job_id for job_id in ids if job_id not in ended))

    async def fail(
        self, failures: Sequence[Failure], at: datetime
    ) -> tuple[dict[LeaseRef, Ready], set[LeaseRef], set[LeaseRef]]:
        """Put failed jobs back, or bury them; returns the retried, the dead, and those that were cancelled."""
        words = {f.lease: f for f in failures}
        retried: dict[LeaseRef, Ready] = {}
        dead: list[LeaseRef] = []
        async with self._db.maintenance() as connection:
            held = await connection.fetch(sql.hold, *_columns(list(words)))
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in held})
            marked, held = _parted(held)
            errors = [words[ref].error for ref in marked]
            cancelled = await end_marked(connection, marked, at, errors=errors, attempts=1) if marked else set()
            for row in held:
                ref = _ref(row)
                run_at = retry_at(words[ref], row["attempts"] + 1, row["max_attempts"], at, _backoff(row))
                if run_at is None:
                    dead.append(ref)
                else:
                    retried[ref] = Ready(row["tenant_id"], ref.job_id, kinds[row["kind_id"]], row["priority"], run_at)
            if retried:
                errors = [words[ref].error for ref in retried]
                await connection.execute(sql.retry, *_returned(list(retried.values())), errors, at)
            if dead:
                ids, _ = _columns(dead)
                await connection.execute(sql.bury, ids, [words[ref].error for ref in dead], at)
        if dead or cancelled:
            self._tied_left()
        return retried, set(dead), cancelled

    async def snooze(self, snoozes: Sequence[Snooze], at: datetime) -> tuple[dict[LeaseRef, Ready], set[LeaseRef]]:
        """Put jobs off without burning an attempt; returns those that were, and those that were cancelled."""
        words = {s.lease: s for s in snoozes}
        off: dict[LeaseRef, Ready] = {}
        async with self._db.maintenance() as connection:
            held = await connection.fetch(sql.hold, *_columns(list(words)))
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in held})
            marked, held = _parted(held)
            reasons = [words[ref].reason for ref in marked]
            cancelled = await end_marked(connection, marked, at, errors=reasons) if marked else set()
            for row in held:
                ref = _ref(row)
                run_at = at + words[ref].delay
                off[ref] = Ready(row["tenant_id"], ref.job_id, kinds[row["kind_id"]], row["priority"], run_at)
            if off:
                reasons = [words[ref].reason for ref in off]
                await connection.execute(sql.put_off, *_returned(list(off.values())), reasons, at)
        if cancelled:
            self._tied_left()
        return off, cancelled

    async def sweep(self, at: datetime) -> Swept:
        """Do what no call does: scheduled jobs fall due, leases run out, poison is buried, and what waited for jobs that
        have left comes free. Bounded."""
        freed, more_left = await drain(self._db, self._kinds, at)
        async with self._db.maintenance() as connection:
            due = await connection.fetch(sql.promote, at, SWEEP_LIMIT)
            cancelled = await end_lost(connection, at, SWEEP_LIMIT)
            lost = await connection.fetch(sql.recover, at, SWEEP_LIMIT)
            buried = await connection.execute(sql.bury_poison, at, SWEEP_LIMIT, LEASE_LOST)
            next_at = await connection.fetchval(sql.next_turn)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in (*due, *lost)})
        moved = affected(buried)
        if moved or cancelled:
            self._tied_left()
        more = more_left or SWEEP_LIMIT in (len(due), len(lost), moved, cancelled)
        return Swept([*freed, *(ready_of(row, kinds) for row in (*due, *lost))], moved, more, next_at)


def _lot(key: tuple[UUID, int, int], rows: list[Any], kinds: Mapping[int, str], token: int, until: datetime) -> Lot:
    tenant_id, kind_id, priority = key
    attempts, lost, snoozes = ([row[name] for row in rows] for name in ("attempts", "lost_leases", "snoozes"))
    return Lot(
        tenant_id, kinds[kind_id], priority, token, until,
        ids=[row["id"] for row in rows], payloads=[row["payload"] for row in rows],
        created_at=[row["created_at"] for row in rows], max_attempts=[row["max_attempts"] for row in rows],
        traceparents=[row["traceparent"] or "" for row in rows],
        attempts=attempts if any(attempts) else (), lost_leases=lost if any(lost) else (),
        snoozes=snoozes if any(snoozes) else (),
    )  # fmt: skip


def _backoff(row: Any) -> Backoff:
    return Backoff(timedelta(milliseconds=row["backoff_base"]), timedelta(milliseconds=row["backoff_cap"]))


def new_token() -> int:
    """A fresh lease's token: positive, and not to be guessed."""
    return secrets.randbits(63) or 1


def _ref(row: Any) -> LeaseRef:
    return LeaseRef(row["id"], row["lease_token"])


def _parted(held: Sequence[Any]) -> tuple[list[LeaseRef], list[Any]]:
    """Those whose cancellation is wished, and the rows of the others."""
    return [_ref(row) for row in held if row["cancel_wanted"]], [row for row in held if not row["cancel_wanted"]]


def _columns(leases: Sequence[LeaseRef]) -> tuple[list[int], list[int]]:
    return [ref.job_id for ref in leases], [ref.token for ref in leases]


def _returned(jobs: Sequence[Ready]) -> tuple[list[int], list[datetime]]:
    return [job.id for job in jobs], [job.run_at for job in jobs]
