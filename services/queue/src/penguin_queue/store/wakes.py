"""What follows when tied jobs have left: the next of their ordering key, those that waited for them, and their batches'
callbacks come free. Each round is one transaction: what is lost with it is done by the next. It takes as much of each tenant
as of the others, and of many who wait for the same job a page: a wake stays until its last."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

from penguin_chassis.housekeeping import Duty
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
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
# Rows that one step of the hourly round looks at, and its steps.
SETTLE_LIMIT = 1000
SETTLE_ROUNDS = 500
NOBODY = UUID(int=0)
# As the numbers of states.
AGAIN, COMPLETED, DEAD, CANCELLED, DISCARDED = 2, 3, 4, 5, 7


@dataclass
class Turns:
    """Whose turn it is, from round to round: the tenants after this one."""

    after: UUID = NOBODY


async def drain(db: Database, kinds: Kinds, at: datetime, turns: Turns | None = None) -> tuple[list[Ready], bool]:
    """See to the jobs that have left; returns those that came free, and whether there is more to see to at once."""
    async with db.maintenance() as connection:
        wakes, more = await _take(connection, turns or Turns())
        if not wakes:
            return [], more
        rows, left = await _see_to(connection, wakes, at)
        names = await kinds.names(connection, {row["kind_id"] for row in rows})
    return [ready_of(row, names) for row in rows], more or left


async def _take(connection: Connection, turns: Turns) -> tuple[Sequence[Any], bool]:
    """The wakes of one round, locked, and whether there are more."""
    tenants = [row["tenant_id"] for row in await connection.fetch(sql.waking, turns.after, TENANTS_MAX)]
    # Those before are to come, too, and after the last of all the first.
    more = turns.after != NOBODY or len(tenants) == TENANTS_MAX
    turns.after = tenants[-1] if len(tenants) == TENANTS_MAX else NOBODY
    if not tenants:
        return [], more
    share = WAKES_MAX // len(tenants)
    wakes = await connection.fetch(sql.take_wakes, tenants, share)
    return wakes, more or share in Counter(wake["tenant_id"] for wake in wakes).values()


async def _see_to(connection: Connection, wakes: Sequence[Any], at: datetime) -> tuple[Sequence[Any], bool]:
    """Do what follows from these ends; the rows of jobs that came free, and whether that leaves more to see to."""
    awaited = [wake for wake in wakes if wake["awaited"]]
    members = [wake for wake in wakes if wake["batch_id"] is not None]
    waiting, unseen = await _page(connection, awaited)
    keys = {(row["tenant_id"], row["ordering_key"]) for row in (*wakes, *waiting) if row["ordering_key"]}
    # From here on nothing comes to these keys, and what came is seen by each new statement.
    await take_turns(connection, list(keys))
    tied = {wake["job_id"]: wake for wake in (*awaited, *members)}
    rows = await connection.fetch(sql.ends, *_refs(list(tied.values()), "job_id")) if tied else []
    ends = {row["id"]: row["state"] for row in rows}
    batches = sorted({(wake["batch_id"], wake["tenant_id"]) for wake in members})
    heads = await connection.fetch(sql.heads, [t for t, _ in keys], [k for _, k in keys]) if keys else []
    concerned = {row["job_id"] for row in waiting} | {n for n, _ in batches} | {row["id"] for row in heads}
    await connection.execute(sql.lock_held, sorted(concerned))
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
    return await connection.fetch(sql.settle, sorted(concerned), at), cancelled or bool(kept)


async def _page(connection: Connection, awaited: Sequence[Any]) -> tuple[list[Any], dict[int, int]]:
    """Some of those who wait for these ends, as many for each tenant; and how far that comes of the wakes that have more."""
    if not awaited:
        return [], {}
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
    return waiting, unseen


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


async def settle_ties(db: Database, at: datetime) -> None:
    """Forget ties of jobs that are gone, and wake those that nothing else would: what they waited for left without a
    word, as dead letters do whose time is over."""
    after: tuple[Any, ...] = (NOBODY, 0, "")
    for _ in range(SETTLE_ROUNDS):
        async with db.maintenance() as connection:
            rows = await connection.fetch(sql.keys_page, *after, SETTLE_LIMIT)
            columns = [[row[n] for row in rows] for n in range(3)]
            await connection.execute(sql.drop_keys, *columns, at)
        if not rows:
            break
        after = tuple(rows[-1])
    async with db.maintenance() as connection:
        await connection.execute(sql.drop_dependencies, SETTLE_LIMIT)
        await connection.execute(sql.drop_batches, SETTLE_LIMIT)
        await connection.execute(sql.wake_lost, SETTLE_LIMIT)


TIES = Duty("settle_ties", 3600.0, settle_ties)
