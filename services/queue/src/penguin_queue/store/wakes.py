"""What follows when tied jobs have left: the next of their ordering key, those that waited for them, and their batches'
callbacks come free. Each round is one transaction: what is lost with it is done by the next. It takes as much of each tenant
as of the others, and of many who wait for the same job a page: a wake stays until its last. It waits for nobody's ordering key."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

import asyncpg

from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.floor import Floor
from penguin_queue.domain.jobs import Ready
from penguin_queue.domain.ties import AWAITED_CANCELLED, over_for
from penguin_queue.store.jobs import ready_of
from penguin_queue.store.kinds import Kinds
from penguin_queue.store.ties import take_turns

sql = load("penguin_queue.store", "ties.sql")

# Ends that one round sees to, and about as many jobs that wait for them as it frees: some tens of microseconds each.
WAKES_MAX = 500
DEPENDENTS_MAX = 1000
# Tenants among whom one round is shared.
TENANTS_MAX = 50
# Wakes that are few: fewer than these are looked at in the order in which they came, whosever they are.
FEW = 1000
NOBODY = UUID(int=0)
# How long a key that somebody has in hand is waited for, the first time and at most: whoever else asks for it stands in line, and
# who gives up loses his place there.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 8.0
# After every job.
LAST = 1 << 63
# As the numbers of states.
AGAIN, COMPLETED, DEAD, CANCELLED, DISCARDED = 2, 3, 4, 5, 7


Key = tuple[UUID, str]


@dataclass
class Turns:
    """Whose turn it is, from round to round: the tenants after this one; and whether those before, since the first, had anything
    that could be seen to."""

    after: UUID = NOBODY
    found: bool = False
    # Ordering keys that somebody had in hand, and how long each is to be waited for (seconds): those waited for longest first.
    held: dict[Key, float] = field(default_factory=dict)
    floor: Floor = field(default_factory=Floor)


class Left:
    """Jobs that have left, as one process sees to them. No round waits for anybody's ordering key: what is to be done about those
    that are in hand is left, and done by turns apart, which wait for one key each."""

    def __init__(self, db: Database, kinds: Kinds) -> None:
        self._db = db
        self._kinds = kinds
        self._turns = Turns()

    @property
    def held(self) -> bool:
        """Whether there are keys to be waited for."""
        return bool(self._turns.held)

    async def see_to(self, at: datetime) -> tuple[list[Ready], bool]:
        """One round: what came free by it, and whether there is more. Bounded."""
        return await drain(self._db, self._kinds, at, self._turns)

    async def see_to_held(self, at: datetime) -> list[Ready]:
        """Wait for the key that has been waited for longest; what came free by it."""
        return await drain_held(self._db, self._kinds, at, self._turns)


async def drain(db: Database, kinds: Kinds, at: datetime, turns: Turns | None = None) -> tuple[list[Ready], bool]:
    """See to the jobs that have left; returns those that came free, and whether there is more to see to at once."""
    turns = turns or Turns()
    first = turns.after == NOBODY
    async with db.maintenance() as connection:
        wakes, share = await _take(connection, turns, at)
        seen = await _see_to(connection, wakes, at, turns.held)
        names = await kinds.names(connection, {row["kind_id"] for row in seen.rows})
    counts = Counter(wake["tenant_id"] for wake in wakes)
    full = any(counts[wake["tenant_id"]] == share for wake in seen.wakes)
    # What others have in hand is seen to by them, or later: only what was seen to says that there may be more.
    turns.found = bool(seen.wakes) or (turns.found and not first)
    more = turns.after != NOBODY or (turns.found and not first) or full or seen.left
    return [ready_of(row, names) for row in seen.rows], more


async def drain_held(db: Database, kinds: Kinds, at: datetime, turns: Turns) -> list[Ready]:
    """See to the key of `turns.held` that has been waited for longest, once whoever has it in hand lets go; the jobs that came
    free. Who does not let go in time is waited for again, longer, after the others."""
    key = next(iter(turns.held), None)
    if key is None:
        return []
    wait_s = turns.held.pop(key)
    try:
        async with db.maintenance() as connection:
            await connection.execute(f"SET LOCAL lock_timeout = {int(wait_s * 1000)}")
            # Before anything else is locked: nobody is kept waiting meanwhile.
            await take_turns(connection, [key])
            wakes = await connection.fetch(sql.take_wakes, [key[0]], WAKES_MAX, turns.floor.below)
            seen = await _see_to(connection, wakes, at, turns.held)
            names = await kinds.names(connection, {row["kind_id"] for row in seen.rows})
    except BaseException as error:
        turns.held[key] = min(2 * wait_s, LONGEST_WAIT_S)
        if isinstance(error, asyncpg.LockNotAvailableError):
            return []
        raise
    return [ready_of(row, names) for row in seen.rows]


async def _take(connection: Connection, turns: Turns, at: datetime) -> tuple[Sequence[Any], int]:
    """The wakes of one round, locked, and how many of each tenant there are at most."""
    after = turns.floor.start(at)
    found = await connection.fetch(sql.wakes_after, after, FEW)
    first, last = (
        min((row["first"] for row in found), default=None),
        max((row["last"] for row in found), default=None),
    )
    turns.floor.looked(at, first, last)
    if turns.after == NOBODY and len(found) < TENANTS_MAX and sum(row["count"] for row in found) < FEW:
        # As a rule these are all there are.
        tenants = [row["tenant_id"] for row in found]
    else:
        tenants = [row["tenant_id"] for row in await connection.fetch(sql.waking, turns.after, after, TENANTS_MAX)]
    # After the last of all the first is next.
    turns.after = tenants[-1] if len(tenants) == TENANTS_MAX else NOBODY
    if not tenants:
        return [], WAKES_MAX
    share = WAKES_MAX // len(tenants)
    return await connection.fetch(sql.take_wakes, tenants, share, after), share


@dataclass(frozen=True)
class _Seen:
    """The wakes that were seen to, the rows of jobs that came free, and whether that leaves more to see to at once."""

    wakes: Sequence[Any]
    rows: Sequence[Any]
    left: bool


async def _see_to(connection: Connection, wakes: Sequence[Any], at: datetime, held: dict[Key, float]) -> _Seen:
    """Do what follows from these ends, but for keys that somebody has in hand: these are added to `held`."""
    waiting, unseen, left = await _page(connection, [wake for wake in wakes if wake["awaited"]])
    keys = {key for row in (*wakes, *waiting) if (key := _key(row))}
    # From here on nothing comes to these keys, and what came is seen by each new statement.
    if busy := await _busy(connection, keys, held):
        wakes, waiting = _spare(wakes, waiting, unseen, busy)
        keys -= busy
    if not wakes:
        return _Seen([], [], left=False)
    awaited = [wake for wake in wakes if wake["awaited"]]
    members = [wake for wake in wakes if wake["batch_id"] is not None]
    tied = {wake["job_id"]: wake for wake in (*awaited, *members)}
    rows = await connection.fetch(sql.ends, *_refs(list(tied.values()), "job_id")) if tied else []
    ends = {row["id"]: row["state"] for row in rows}
    batches = sorted({(wake["batch_id"], wake["tenant_id"]) for wake in members})
    heads = await connection.fetch(sql.heads, [t for t, _ in keys], [k for _, k in keys]) if keys else []
    concerned = {row["job_id"] for row in waiting} | {n for n, _ in batches} | {row["id"] for row in heads}
    behind = {row["behind"] for row in heads if row["behind"] is not None}
    await connection.execute(sql.lock_held, sorted(concerned | behind))
    if behind:
        await connection.execute(sql.hold_back, sorted(behind))
    cancelled = await _free(connection, waiting, ends, at) if waiting else False
    if members:
        await _count(connection, members, batches, ends)
    # Whoever is there again leaves another wake when it ends.
    kept = {
        wake["id"]: unseen[wake["id"]] for wake in awaited if wake["id"] in unseen and ends[wake["job_id"]] != AGAIN
    }
    if kept:
        await connection.execute(sql.keep_wakes, list(kept), list(kept.values()))
    await connection.execute(sql.drop_wakes, [wake["id"] for wake in wakes if wake["id"] not in kept])
    # In a statement of its own: what became of the others is seen by it. Heads that were cancelled wake their key anew.
    freed = await connection.fetch(sql.settle, sorted(concerned), at)
    return _Seen(wakes, freed, cancelled or not left.isdisjoint(kept))


def _key(row: Any) -> Key | None:
    return (row["tenant_id"], row["ordering_key"]) if row["ordering_key"] else None


async def _busy(connection: Connection, keys: set[Key], held: dict[Key, float]) -> set[Key]:
    """Lock the order of these keys, but for those that somebody has in hand: these are returned, and held."""
    if not keys:
        return set()
    rows = await connection.fetch(sql.try_turns, [tenant for tenant, _ in keys], [key for _, key in keys])
    taken = {(row["tenant_id"], row["key"]) for row in rows}
    for key in taken:
        held.pop(key, None)
    for key in sorted(keys - taken):
        held.setdefault(key, FIRST_WAIT_S)
    return keys - taken


def _spare(
    wakes: Sequence[Any], waiting: Sequence[Any], unseen: dict[int, int], busy: set[Key]
) -> tuple[list[Any], list[Any]]:
    """Those of these wakes, and of those who wait for them, that no busy key stands in the way of. A page ends before the first who
    has one, and so do the `unseen`."""
    ends: dict[int, int] = {}
    for row in waiting:
        if _key(row) in busy:
            ends[row["wake"]] = min(row["job_id"], ends.get(row["wake"], row["job_id"]))
    for wake_id, job_id in ends.items():
        unseen[wake_id] = job_id - 1
    spared = [row for row in waiting if row["job_id"] < ends.get(row["wake"], LAST)]
    moved = {row["wake"] for row in spared}
    seen = [
        wake
        for wake in wakes
        if _key(wake) not in busy and (wake["id"] not in ends or wake["id"] in moved or _key(wake) or wake["batch_id"])
    ]
    ids = {wake["id"] for wake in seen}
    return seen, [row for row in spared if row["wake"] in ids]


async def _page(connection: Connection, awaited: Sequence[Any]) -> tuple[list[Any], dict[int, int], set[int]]:
    """Some of those who wait for these ends, as many for each tenant; how far that comes of the wakes that have more, and which
    these are."""
    if not awaited:
        return [], {}, set()
    counts = Counter(wake["tenant_id"] for wake in awaited)
    most = [max(1, DEPENDENTS_MAX // len(counts) // counts[wake["tenant_id"]]) for wake in awaited]
    # One more than is seen to tells that there are more.
    rows = await connection.fetch(
        sql.dependents, *_refs(awaited, "job_id"), [wake["id"] for wake in awaited], [wake["seen"] for wake in awaited],
        [each + 1 for each in most],
    )  # fmt: skip
    pages: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        pages[row["wake"]].append(row)
    waiting: list[Any] = []
    unseen: dict[int, int] = {}
    for wake, each in zip(awaited, most, strict=True):
        page = sorted(pages[wake["id"]], key=itemgetter("job_id"))
        if len(page) > each:
            unseen[wake["id"]] = page[each - 1]["job_id"]
        waiting += [row for row in page[:each] if not row["gone"]]
    return waiting, unseen, set(unseen)


async def _free(connection: Connection, waiting: Sequence[Any], ends: dict[int, int], at: datetime) -> bool:
    """Those who waited wait for fewer, or are cancelled too; whether any are."""
    freed = [row for row in waiting if over_for(ends[row["awaits"]], run_if_failed=row["run_if_failed"])]
    doomed = {
        row["job_id"] for row in waiting if ends[row["awaits"]] in {CANCELLED, DISCARDED} and not row["run_if_failed"]
    }  # fmt: skip
    if freed:
        await connection.execute(sql.free, *_refs(freed, "awaits"), [row["job_id"] for row in freed])
    if doomed:
        await connection.execute(sql.cancel_held, sorted(doomed), at, AWAITED_CANCELLED)
    return bool(doomed)


async def _count(
    connection: Connection, members: Sequence[Any], batches: Sequence[tuple[int, UUID]], ends: dict[int, int]
) -> None:
    """Count how members of batches ended; one that is there again has not."""
    counts = Counter((wake["batch_id"], ends[wake["job_id"]]) for wake in members)
    tenants, ids = [tenant for _, tenant in batches], [n for n, _ in batches]
    await connection.execute(sql.lock_batches, tenants, ids)
    columns = [
        [sum(counts[n, end] for end in each) for n in ids] for each in ((COMPLETED,), (DEAD, DISCARDED), (CANCELLED,))
    ]
    await connection.execute(sql.count_ends, tenants, ids, *columns)


def _refs(rows: Sequence[Any], name: str) -> tuple[list[UUID], list[int]]:
    return [row["tenant_id"] for row in rows], [row[name] for row in rows]
