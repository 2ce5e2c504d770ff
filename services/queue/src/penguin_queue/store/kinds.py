"""Kinds of jobs by the numbers that rows carry. A name keeps its number while it is used, so each is looked up once an hour.

A kind of which there has been nothing for long, and which nobody has asked for, is removed. Whoever asks for one says by that
that it is used; and as nobody goes by what was looked up longer ago, a number that is removed is known to nobody any more."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from penguin_chassis.faults import Fault, ResourceExhausted
from penguin_chassis.housekeeping import Duty
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "kinds.sql")

# Kinds name handlers: whoever has more is putting data into the name. What tenants may not use up is left to those who run the
# platform.
LIMIT = 10_000
RESERVED = 1_000
# How many a tenant may be the first to name.
TENANT_LIMIT = 200
TOO_MANY = "There are too many kinds of jobs."
TOO_MANY_OF_TENANT = "This tenant has named too many new kinds of jobs."
# How long what was looked up is known (seconds).
KNOWN_S = 3600.0
# A kind unused for so long is removed. Longer than any queue keeps completed jobs, and much longer than numbers are known.
UNUSED = timedelta(days=100)
# Kinds that one round marks, and removes.
ROUND = 1000


class Kinds:
    """The kinds known to this process; the database knows them all."""

    def __init__(self, known_s: float = KNOWN_S) -> None:
        self._ids: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._known_s = known_s
        self._since = time.monotonic()

    def cached(self, name: str) -> int | None:
        """The number of a kind that was asked for lately."""
        self._forget_old()
        return self._ids.get(name)

    async def numbers(
        self, connection: Connection, names: Collection[str], tenant_id: UUID | None
    ) -> Mapping[str, int]:
        """The number of each; kinds that are new are the tenant's, or (None) of those who run the platform. Raises
        ResourceExhausted (BACKLOG_FULL) for one too many. Once a transaction: in a second call it would be remembered what may
        be rolled back."""
        ids, refused = await self.numbers_or_faults(connection, names, tenant_id)
        for fault in refused.values():
            raise fault
        return ids

    async def numbers_or_faults(
        self, connection: Connection, names: Collection[str], tenant_id: UUID | None
    ) -> tuple[Mapping[str, int], Mapping[str, Fault]]:
        """The same, and why there is none for those that are too many; the others have theirs."""
        ids, unknown = await self._look_up(connection, names)
        if not unknown:
            return ids, {}
        room, why = LIMIT + (RESERVED if tenant_id is None else 0) - await connection.fetchval(sql.count), TOO_MANY
        if tenant_id and (own := TENANT_LIMIT - await connection.fetchval(sql.count_made, tenant_id)) < room:
            room, why = own, TOO_MANY_OF_TENANT
        unknown, many = unknown[: max(room, 0)], unknown[max(room, 0) :]
        refused = {name: ResourceExhausted(why, reason="BACKLOG_FULL", field="kind") for name in many}
        if not unknown:
            return ids, refused
        await connection.execute(sql.add, unknown, tenant_id)
        # Not remembered before it is committed: a rollback takes the number away.
        rows = await connection.fetch(sql.by_name, unknown)
        return ids | {row["name"]: row["id"] for row in rows}, refused

    async def numbers_of(self, connection: Connection, names: Collection[str]) -> Mapping[str, int]:
        """The numbers of those that there are."""
        return (await self._look_up(connection, names))[0]

    async def known(self, connection: Connection, names: Collection[str]) -> list[int]:
        """The numbers of those that there are."""
        ids, _ = await self._look_up(connection, names)
        return [ids[name] for name in names if name in ids]

    async def names(self, connection: Connection, kind_ids: Collection[int]) -> Mapping[int, str]:
        """What rows' kinds are called."""
        if any(kind_id not in self._names for kind_id in kind_ids):
            # That a row has it is no word of anybody that it is used.
            self._names.update({row["id"]: row["name"] for row in await connection.fetch(sql.all)})
        return self._names

    def _forget_old(self) -> None:
        at = time.monotonic()
        if at - self._since >= self._known_s:
            self._ids, self._since = {}, at

    async def _look_up(self, connection: Connection, names: Collection[str]) -> tuple[dict[str, int], list[str]]:
        """Remember those that there are; all that are known, and the others, each once."""
        self._forget_old()
        # These, though another call may forget them meanwhile.
        ids = self._ids
        missing = [name for name in names if name not in ids]
        if not missing:
            return ids, []
        rows = await connection.fetch(sql.by_name, missing)
        for row in rows:
            if not row["unused"]:
                ids[row["name"]], self._names[row["id"]] = row["id"], row["name"]
        if unused := [row["id"] for row in rows if row["unused"]]:
            # Not remembered either: were this rolled back it would be unused still, and be removed while it is known here.
            ids = ids | {row["name"]: row["id"] for row in await connection.fetch(sql.use, unused)}
        return ids, sorted({name for name in missing if name not in ids})


async def forget_kinds(db: Database, at: datetime) -> None:
    """Mark kinds of which there is nothing, and remove those that have been so for long."""
    async with db.maintenance() as connection:
        await connection.execute(sql.mark_unused, at, ROUND)
        ids = [row["id"] for row in await connection.fetch(sql.long_unused, at - UNUSED, ROUND)]
    if ids:
        async with db.maintenance() as connection:
            await connection.execute(sql.forget, ids, at - UNUSED)


KINDS = Duty("kinds", 86400.0, forget_kinds)
