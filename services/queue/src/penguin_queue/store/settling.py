"""What is left of ties whose jobs are gone goes, and those are woken that nothing else would wake: an hourly round."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from penguin_chassis.housekeeping import Duty
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "settling.sql")

# Rows of a table that one step of the round looks at, each a transaction, and its steps.
PAGE = 1000
PAGES = 500
NOBODY = UUID(int=0)
# Looks at a page of those after one; the last of it, or nothing where there is none.
Look = Callable[[Connection, tuple[Any, ...], datetime], Awaitable[Any]]


class Settling:
    """The rounds of one process. A round that does not come to the end of a table is gone on with by the next: whatever stands
    behind more than one looks at has its turn."""

    def __init__(self) -> None:
        self._after: dict[str, tuple[Any, ...]] = {}

    def duty(self) -> Duty:
        """The hourly one."""
        return Duty("settle_ties", 3600.0, self.settle)

    async def settle(self, db: Database, at: datetime) -> None:
        """Forget ties of jobs that are gone, and wake those that nothing else would: what they waited for left without a word, as
        dead letters do whose time is over."""
        await self._through(db, at, "keys", (NOBODY, 0, ""), _keys)
        await self._through(db, at, "dependencies", (NOBODY, 0, 0), partial(_page, sql.dependencies_page))
        await self._through(db, at, "batches", (NOBODY, 0), partial(_page, sql.batches_page))
        async with db.maintenance() as connection:
            await connection.execute(sql.wake_stuck, PAGE)

    async def _through(self, db: Database, at: datetime, table: str, first: tuple[Any, ...], look: Look) -> None:
        for _ in range(PAGES):
            async with db.maintenance() as connection:
                last = await look(connection, self._after.get(table, first), at)
            if last is None:
                self._after.pop(table, None)
                return
            self._after[table] = tuple(last)


async def _page(query: str, connection: Connection, after: tuple[Any, ...], _: datetime) -> Any:
    return await connection.fetchrow(query, *after, PAGE)


async def _keys(connection: Connection, after: tuple[Any, ...], at: datetime) -> Any:
    rows = await connection.fetch(sql.keys_page, *after, PAGE)
    await connection.execute(sql.drop_keys, *([row[n] for row in rows] for n in range(3)), at)
    return rows[-1] if rows else None
