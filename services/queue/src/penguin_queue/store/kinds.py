"""Kinds of jobs by the numbers that rows carry. Names and numbers never change, so each is looked up once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from penguin_chassis.faults import ResourceExhausted
from penguin_chassis.pool import Connection
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "kinds.sql")

# Kinds name handlers: whoever has more is putting data into the name.
LIMIT = 10_000


class Kinds:
    """The kinds known to this process; the database knows them all."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def cached(self, name: str) -> int | None:
        """The number of a kind that was asked for before."""
        return self._ids.get(name)

    async def numbers(self, connection: Connection, names: Collection[str]) -> Mapping[str, int]:
        """The number of each, new kinds added. Raises ResourceExhausted (BACKLOG_FULL) beyond LIMIT."""
        if any(name not in self._ids for name in names):
            unknown = await self._look_up(connection, [name for name in names if name not in self._ids])
            if unknown:
                if len(unknown) + await connection.fetchval(sql.count) > LIMIT:
                    raise ResourceExhausted("There are too many kinds of jobs.", reason="BACKLOG_FULL", field="kind")
                await connection.execute(sql.add, unknown)
                # Not remembered before it is committed: a rollback takes the number away.
                rows = await connection.fetch(sql.by_name, unknown)
                return self._ids | {row["name"]: row["id"] for row in rows}
        return self._ids

    async def numbers_of(self, connection: Connection, names: Collection[str]) -> Mapping[str, int]:
        """The numbers of those that there are."""
        await self._look_up(connection, [name for name in names if name not in self._ids])
        return self._ids

    async def known(self, connection: Connection, names: Collection[str]) -> list[int]:
        """The numbers of those that there are."""
        await self._look_up(connection, [name for name in names if name not in self._ids])
        return [self._ids[name] for name in names if name in self._ids]

    async def names(self, connection: Connection, kind_ids: Collection[int]) -> Mapping[int, str]:
        """What rows' kinds are called."""
        if any(kind_id not in self._names for kind_id in kind_ids):
            self._remember(await connection.fetch(sql.all))
        return self._names

    async def _look_up(self, connection: Connection, names: list[str]) -> list[str]:
        """Remember those that there are; the others are given back, each once."""
        if names:
            self._remember(await connection.fetch(sql.by_name, names))
        return sorted({name for name in names if name not in self._ids})

    def _remember(self, rows: Sequence[Any]) -> None:
        for kind_id, name in rows:
            self._ids[name], self._names[kind_id] = kind_id, name
