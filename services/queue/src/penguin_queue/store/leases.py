"""Leases: who works on which job until when, across tenants. Every word on a lease is fenced by its token: a token that
another lease has replaced moves nothing."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.fleet import WELL, Fleet
from penguin_queue.domain.jobs import (
    LEASE_LOST,
    Backoff,
    Failure,
    Job,
    LeaseRef,
    Lot,
    Progress,
    Ready,
    Snooze,
    retry_at,
)
from penguin_queue.domain.limits import Rooms
from penguin_queue.domain.rates import Rated
from penguin_queue.domain.turns import Head, Lane, Place, Taken, Turn
from penguin_queue.store import REPEATS_KNOWN, attempts
from penguin_queue.store.bounds import bounds
from penguin_queue.store.control import end_lost, end_marked
from penguin_queue.store.due import EVER, Due, RunOut
from penguin_queue.store.jobs import job_of, ready_of
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.lots import lots_of
from penguin_queue.store.ties import give_way
from penguin_queue.store.wakes import Left

sql = load("penguin_queue.store", "leases.sql")

# Lanes that one survey looks at: some microseconds each.
SURVEY_MAX = 10_000
# Before every lane.
_FIRST = (0, 0, UUID(int=0))
# Payloads of one lease (bytes): with what else there is of so many jobs a message of 4 MiB takes them. One job may go beyond.
LEASE_BYTES = 2 * 1024 * 1024
# Rows that one round of a sweep moves; the next round follows at once.
SWEEP_LIMIT = 1000


@dataclass(frozen=True)
class Asked:
    """Who asks for a lease of which kinds (none: all), until when, and how many jobs it wants."""

    kinds: tuple[str, ...]
    max_jobs: int
    until: datetime
    worker_id: str


class Outcome(NamedTuple):
    """What a lease left: places of limited queues, and, where it is `spent`, jobs that were beyond its bytes."""

    rooms: Rooms
    spent: bool


@dataclass(frozen=True)
class Survey:
    """Heads of lanes, the last lane that was looked at (priority, kind's number, tenant), and whether there are more."""

    heads: list[Head]
    last: tuple[int, int, UUID]
    more: bool


@dataclass(frozen=True)
class Swept:
    """What a sweep made ready, how many it buried, how many leases it found lost, whether time has brought more, and when the
    next turn comes."""

    ready: list[Ready]
    buried: int
    lost: int
    more: bool
    next_at: datetime | None


class LeaseStore:
    """Leases of one database. `tied_left` is called when jobs have left that others may wait for."""

    def __init__(self, db: Database, kinds: Kinds, tied_left: Callable[[], None] = lambda: None) -> None:
        self._tied_left = tied_left
        self._db = db
        self._kinds = kinds
        # What waited for jobs that have left.
        self.left = Left(db, kinds)
        self._due = Due(db)
        self._run_out = RunOut()

    async def lease(
        self, asked: Sequence[Asked], turns: Sequence[Turn], at: datetime = EVER
    ) -> tuple[list[list[Job]], Outcome]:
        """Lease ready jobs for several callers at once, turn by turn, until their payloads are LEASE_BYTES; to each its own. Leases
        that have run out at `at` hold no place in a limited queue."""
        tokens = [new_token() for _ in asked]
        wanted = [each.max_jobs for each in asked]
        # In rounds, so that few jobs go to many.
        slots = (
            [n for left in range(max(wanted)) for n, each in enumerate(wanted, 1) if each > left]
            if len(asked) > 1
            else []
        )
        async with self._db.maintenance() as connection:
            rows, left = await self._take(connection, sql.lease_lanes, asked, turns, tokens, slots, at)
            found = await self._jobs(connection, rows)
        places = {token: n for n, token in enumerate(tokens)}
        given: list[list[Job]] = [[] for _ in asked]
        for job in found:
            given[places[job.lease_token or 0]].append(job)
        return given, left

    async def lease_lots(
        self, asked: Asked, turns: Sequence[Turn], at: datetime = EVER
    ) -> tuple[list[Lot], list[Taken], Outcome]:
        """The same for one caller, as columns; and from where in their lanes they are."""
        async with self._db.maintenance() as connection:
            token = new_token()
            rows, left = await self._take(connection, sql.lease_lots, [asked], turns, [token], [], at)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
            # While the transaction is open: rows that cannot be read are not leased.
            found = lots_of(rows, kinds, token, asked.until)
        return [lot for lot, _ in found], [taken for _, taken in found], left

    async def _take(
        self,
        connection: Connection,
        query: str,
        asked: Sequence[Asked],
        turns: Sequence[Turn],
        tokens: Sequence[int],
        slots: Sequence[int],
        at: datetime,
    ) -> tuple[Sequence[Any], Outcome]:
        wanted = sum(each.max_jobs for each in asked)
        numbers = await self._kinds.numbers_of(connection, {turn.lane.kind for turn in turns})
        turns = [turn for turn in turns if turn.lane.kind in numbers]
        rows: list[Any] = await connection.fetch(
            query,
            [turn.band for turn in turns], [turn.lane.priority for turn in turns],
            [numbers[turn.lane.kind] for turn in turns], [turn.lane.tenant_id for turn in turns],
            [turn.floor.rank for turn in turns], [turn.floor.run_at for turn in turns], [turn.floor.id for turn in turns],
            [turn.share for turn in turns], [turn.cap for turn in turns], wanted,
            tokens, [each.until for each in asked], [each.worker_id for each in asked], slots, at, LEASE_BYTES,
        )  # fmt: skip
        rooms = await connection.fetch(sql.rooms_left) if any(turn.limited for turn in turns) else []
        spent = len(rows) < wanted and sum(len(row["payload"]) for row in rows) >= LEASE_BYTES
        return rows, Outcome(dict(map(tuple, rooms)), spent)

    async def survey(self, after: Survey | None = None) -> Survey:
        """The heads of all lanes, or of the SURVEY_MAX that come after those of an earlier survey."""
        start = _FIRST if after is None else after.last
        async with self._db.maintenance() as connection:
            rows = await connection.fetch(sql.survey_lanes, *start, SURVEY_MAX)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        heads = [
            Head(
                Lane(row["priority"], kinds[row["kind_id"]], row["tenant_id"]),
                Place(row["rank"], row["run_at"], row["id"]),
            )
            for row in rows
            if not row["resting"]
        ]
        last = (rows[-1]["priority"], rows[-1]["kind_id"], rows[-1]["tenant_id"]) if rows else start
        return Survey(heads, last, more=len(rows) == SURVEY_MAX)

    async def in_flight(self, at: datetime) -> tuple[dict[UUID, int], dict[UUID, int]]:
        """Each tenant's jobs in workers' hands, and the weights of those that are no ordinary ones."""
        async with self._db.maintenance() as connection:
            counts = await connection.fetch(sql.in_flight, at)
            return _mapping(counts), _mapping(await connection.fetch(sql.weights))

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
            woken = await give_way(connection, held)
        if cancelled or woken:
            self._tied_left()
        return set(map(_ref, held)), [ready_of(row, kinds) for row in rows], cancelled

    async def _jobs(self, connection: Connection, rows: Sequence[Any]) -> list[Job]:
        kinds = await self._kinds.names(connection, {row["kind_id"] for row in rows})
        return [job_of(row, kinds) for row in rows]

    async def extend(
        self, leases: Sequence[LeaseRef], until: datetime, told: Mapping[int, Progress] | None = None
    ) -> tuple[set[LeaseRef], list[int]]:
        """Keep jobs in hand until then, and what is told of some by their ids; returns those that still are the caller's,
        and the ids of those among them whose cancellation is wished."""
        async with self._db.maintenance() as connection:
            if told:
                progress = [told.get(ref.job_id) for ref in leases]
                rows = await connection.fetch(
                    sql.extend_telling, *_columns(leases), until, next(iter(told.values())).at,
                    [p and p.done for p in progress], [p and p.total for p in progress], [p and p.note for p in progress],
                )  # fmt: skip
            else:
                rows = await connection.fetch(sql.extend, *_columns(leases), until)
        return set(map(_ref, rows)), sorted(row["id"] for row in rows if row["cancel_wanted"])

    async def complete(
        self, ids: Sequence[int], tokens: Sequence[int], at: datetime, results: Mapping[int, str] | None = None
    ) -> list[int]:
        """End jobs that are done, under one token each, some with results by their ids. Returns those that are not, neither by this call nor by an
        earlier one under the same lease: the lease is lost."""
        async with self._db.maintenance() as connection:
            results, rows = results or {}, []
            if len(set(tokens)) == 1 and not results:
                (row,) = await connection.fetch(sql.complete_one_lease, sorted(set(ids)), tokens[0], at)
                done, tied = row["ended"], bool(row["tied"])
            else:
                found = await connection.fetch(sql.complete, ids, tokens, at, list(results), list(results.values()))
                done, tied = len(found), any(row["tied"] for row in found)
            if done != len(ids):
                rows = await connection.fetch(sql.completed_before, ids, tokens, at - REPEATS_KNOWN)
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
            if held:
                said = [words[_ref(row)] for row in held]
                await attempts.record_failures(connection, held, [(f.error, f.message) for f in said], at)
            marked, held = _parted(held)
            errors = [words[ref].error for ref in marked]
            cancelled = await end_marked(connection, marked, at, errors=errors, attempts=1) if marked else set()
            for row in held:
                ref = _ref(row)
                run_at = retry_at(words[ref], row["attempts"] + 1, row["max_attempts"], at, _backoff(row))
                if run_at is None:
                    dead.append(ref)
                else:
                    retried[ref] = Ready(
                        row["tenant_id"], ref.job_id, kinds[row["kind_id"]], row["priority"], run_at, row["rank"]
                    )
            if retried:
                errors = [words[ref].error for ref in retried]
                await connection.execute(sql.retry, *_returned(list(retried.values())), errors, at)
            if dead:
                ids, _ = _columns(dead)
                await connection.execute(sql.bury, ids, [words[ref].error for ref in dead], at)
            woken = await give_way(connection, [row for row in held if _ref(row) in retried])
        if dead or cancelled or woken:
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
                off[ref] = _again(row, kinds, run_at)
            if off:
                reasons = [words[ref].reason for ref in off]
                await connection.execute(sql.put_off, *_returned(list(off.values())), reasons, at)
            woken = await give_way(connection, held)
        if cancelled or woken:
            self._tied_left()
        return off, cancelled

    async def put_in_line(self, waits: Mapping[LeaseRef, tuple[timedelta, bool]], at: datetime) -> list[Ready]:
        """Put leased jobs off until their rate lets them go, each with its place in line or without one; returns them. Those
        whose cancellation is wished end."""
        async with self._db.maintenance() as connection:
            marked, held = _parted(await connection.fetch(sql.hold, *_columns(list(waits))))
            if marked:
                await end_marked(connection, marked, at)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in held})
            off = [_again(row, kinds, at + waits[_ref(row)][0]) for row in held]
            lined = [waits[_ref(row)][1] for row in held]
            await connection.execute(sql.put_in_line, *_returned(off), lined, at)
            woken = await give_way(connection, held)
        if marked or woken:
            self._tied_left()
        return off

    async def bounds(self) -> tuple[dict[str, Rated], dict[str, int]]:
        """The kinds that go by a rate, and by which; and those of which only so many may be in flight, by their queues."""
        async with self._db.maintenance() as connection:
            return await bounds(connection)

    async def sweep(self, at: datetime, after: datetime = EVER, fleet: Fleet = WELL) -> Swept:
        """Do what time has brought since `after` and no call does: scheduled jobs fall due, leases run out, poison is buried.
        Bounded, each in a transaction of its own: what is wrong with one does not undo the other.

        The `fleet` says how many more leases than its queue's limit a job may lose, and which are no loss.
        """
        due, more_due = await self._due.promote(at, after, SWEEP_LIMIT)
        async with self._db.maintenance() as connection:
            cancelled, lost, buried = await self._lost(connection, at, after, fleet)
            woken = await give_way(connection, lost)
            next_at = await connection.fetchval(sql.next_turn, after)
            kinds = await self._kinds.names(connection, {row["kind_id"] for row in (*due, *lost)})
        if buried or cancelled or woken:
            self._tied_left()
        more = more_due or len(lost) >= SWEEP_LIMIT or SWEEP_LIMIT in (len(buried), len(cancelled))
        losses = len(cancelled) + len(buried) + sum(not row["excused"] for row in lost)
        return Swept([ready_of(row, kinds) for row in (*due, *lost)], len(buried), losses, more, next_at)

    async def _lost(
        self, connection: Connection, at: datetime, after: datetime, fleet: Fleet
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """See to leases that have run out; rows of jobs that are cancelled by it, ready again, and taken for poison."""
        (expired,) = await connection.fetch(sql.expired, at, after, SWEEP_LIMIT, *fleet.excused)
        if not expired["total"]:
            return [], [], []
        spared = (fleet.spares(expired["losses"], at), *fleet.excused)
        cancelled = await end_lost(connection, at, SWEEP_LIMIT, after)
        ids = await self._run_out.ids(connection, at, after, SWEEP_LIMIT, spared, many=expired["total"] == SWEEP_LIMIT)
        lost = await connection.fetch(sql.recover, at, ids, LEASE_LOST, *spared)
        buried = await connection.fetch(sql.bury_poison, at, SWEEP_LIMIT, LEASE_LOST, after, *spared)
        ended = [(row["tenant_id"], row["id"], row["attempt"]) for row in (*cancelled, *lost, *buried)]
        await attempts.prune(connection, ended)
        return list(cancelled), list(lost), list(buried)


def _mapping(rows: Sequence[Any]) -> dict[UUID, int]:
    return dict(map(tuple, rows))


def _again(row: Any, kinds: Mapping[int, str], run_at: datetime) -> Ready:
    """A job that was held, as it can be leased from `run_at` on."""
    return Ready(row["tenant_id"], row["id"], kinds[row["kind_id"]], row["priority"], run_at, row["rank"])


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
