"""How long jobs are kept that are over. Partitions go whole when no queue keeps anything of their time any more; where a
queue keeps less than others, its rows are combed out of the partitions.

Combing moves in whole days (UTC): a day is combed for a queue once, when all of it is past what the queue keeps, and the
queue remembers how far that has come. Each transaction reads some pages of one partition and no page is read twice, so
neither locks nor work grow with what is kept. A partition of dead letters is a month: it is read once a day while the edge
is in it.

While a legal hold on a person stands, nothing of its tenant's goes; what combing passed over goes with its partition later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from penguin_chassis import subjects
from penguin_chassis.housekeeping import locking_shortly
from penguin_chassis.pool import Database
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "retention.sql")

# Pages that one transaction reads: two megabytes, at most some ten thousand jobs.
PAGES = 256
DAY = timedelta(days=1)
DAYS_AHEAD = timedelta(days=7)
MONTHS_AHEAD = timedelta(days=62)
# The log of attempts is kept for as long as completed jobs are, and at least so long.
ATTEMPTS_RETENTION = timedelta(days=7)


@dataclass(frozen=True)
class Kept:
    """A table of jobs that are over: how its partitions are named, and its statements."""

    table: str
    partition: str
    monthly: bool
    behind: str
    comb: str
    combed: str


COMPLETED = Kept(
    "completed_jobs", "completed_jobs_%Y%m%d", False, sql.completed_behind, sql.comb_completed, sql.completed_combed
)
DEAD = Kept("dead_jobs", "dead_jobs_%Y%m", True, sql.dead_behind, sql.comb_dead, sql.dead_combed)


async def keep_partitions(db: Database, at: datetime) -> None:
    """Make the partitions of the days to come, drop those whose time is over for every queue."""
    today = at.date()
    # From tomorrow on: if today's is missing, its rows are in the default partition already, and stay there.
    tomorrow = today + DAY
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    for table, step, first, last in (
        ("completed_jobs", "day", tomorrow, today + DAYS_AHEAD), ("job_attempts", "day", tomorrow, today + DAYS_AHEAD),
        ("dead_jobs", "month", next_month, today + MONTHS_AHEAD),
    ):  # fmt: skip
        async with locking_shortly(db) as connection:
            await connection.execute(sql.ensure_partitions, table, step, first, last)
    async with db.maintenance() as connection:
        ((completed, dead),) = await connection.fetch(sql.longest)
    attempts = max(completed, ATTEMPTS_RETENTION)
    for table, retention in (("completed_jobs", completed), ("dead_jobs", dead), ("job_attempts", attempts)):
        async with locking_shortly(db) as connection:
            await connection.execute(subjects.sql.no_new_holds)
            held = await connection.fetchrow(sql.oldest_held)
            await connection.execute(sql.drop_partitions, table, today - retention, held and held[table])
    async with db.maintenance() as connection:
        await connection.execute(subjects.sql.no_new_holds)
        # What is this old now can only be in a default partition, or in a month that is not over yet.
        await connection.execute(sql.expire_completed, at - completed)
        await connection.execute(sql.expire_dead, at - dead)
        await connection.execute(sql.expire_attempts, at - attempts)


async def comb(db: Database, at: datetime) -> None:
    """Remove jobs that are past what their own queue keeps, where others keep more."""
    for kept in (COMPLETED, DEAD):
        async with db.maintenance() as connection:
            behind = await connection.fetch(kept.behind, at)
        for row in behind:
            for first, last in _spans(kept, row["since"], row["edge"]):
                if not await _comb_span(db, kept, row, first, last):
                    return


def _spans(kept: Kept, since: datetime, edge: datetime) -> Iterator[tuple[datetime, datetime]]:
    """What is to be combed, partition by partition, the oldest first: each from a day to the one before which it ends."""
    first = _day(since)
    while first < edge:
        last = min(edge, _day(first.replace(day=1) + timedelta(days=32), 1) if kept.monthly else first + DAY)
        yield first, last
        first = last


def _day(at: datetime, day: int | None = None) -> datetime:
    at = at.astimezone(UTC)
    return at.replace(day=day or at.day, hour=0, minute=0, second=0, microsecond=0)


async def _comb_span(db: Database, kept: Kept, row: Any, first: datetime, last: datetime) -> bool:
    """Comb days of one partition for queues that have come equally far; False where another process is at it."""
    page = 0
    while True:
        async with db.maintenance() as connection:
            if not await connection.fetchval(sql.alone):
                return False
            # Queues without kinds have nothing to be removed.
            pages = await connection.fetchval(sql.pages, kept.table, f"{first:{kept.partition}}") if row["kinds"] else 0
            if page >= pages:
                await connection.execute(kept.combed, row["queues"], last)
                return True
            await connection.execute(subjects.sql.no_new_holds)
            held = [each["tenant_id"] for each in await connection.fetch(sql.held)]
            await connection.execute(sql.by_place)
            await connection.execute(kept.comb, first, last, row["kinds"], (page, 0), (page + PAGES, 0), held)
        page += PAGES
