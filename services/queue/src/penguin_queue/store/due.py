"""What time brings: scheduled jobs fall due, leases run out. As a rule a round takes all; of more than that it takes the earliest,
and beside them a share of each tenant's: who has very many at one moment delays nobody's single job by more than some rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "due.sql")

# Tenants with scheduled jobs that one round looks at, due or not: some microseconds each.
TENANTS_MAX = 500
NOBODY = UUID(int=0)
# Leases that ran out among which tenants have shares: about a microsecond each.
SEEN_MAX = 20_000
# Before anything that a sweep could move.
EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Due:
    """Promotions of one process: whose turn it is when there are more than a round takes, the tenants after this one."""

    db: Database
    after: UUID = NOBODY

    async def promote(self, at: datetime, since: datetime, limit: int) -> tuple[list[Any], bool]:
        """Make jobs ready that fell due after `since`; their rows, and whether there are more. Of the earliest `limit` at most, of
        the tenants whose turn it is as many again."""
        async with self.db.maintenance() as connection:
            due = list(await connection.fetch(sql.promote, at, limit, since))
        if len(due) < limit:
            self.after = NOBODY
            return due, False
        return [*due, *await self._shares(at, since, limit)], True

    async def _shares(self, at: datetime, since: datetime, limit: int) -> Sequence[Any]:
        async with self.db.maintenance() as connection:
            found = await connection.fetch(sql.scheduling, self.after, at, TENANTS_MAX)
            # After the last of all the first is next.
            self.after = found[-1]["tenant_id"] if len(found) == TENANTS_MAX else NOBODY
            tenants = [row["tenant_id"] for row in found if row["due"]]
            if not tenants:
                return []
            rows: Sequence[Any] = await connection.fetch(sql.promote_each, tenants, at, limit // len(tenants), since)
            return rows


@dataclass
class RunOut:
    """Leases that run out, as one process finds them. There is no index by tenants, which every lease would have to pay for."""

    after: datetime = EVER

    async def ids(
        self, connection: Connection, at: datetime, since: datetime, limit: int, spared: tuple[Any, ...], *, many: bool
    ) -> list[int]:
        """Jobs whose leases ran out after `since`, and are to be leased again for all that is known of the fleet (`spared`): the
        first, and where there are `many` as many again, by shares of the tenants that are among some more; these begin where those
        of the last round ended. Some of them may have been given back, or have something else become of them."""
        ids = [row["id"] for row in await connection.fetch(sql.run_out, at, limit, since, *spared)]
        if not many:
            self.after = EVER
            return ids
        (row,) = await connection.fetch(sql.run_out_each, at, max(since, self.after), SEEN_MAX, limit)
        self.after = row["last"] if row["seen"] == SEEN_MAX else EVER
        return list(dict.fromkeys((*ids, *row["ids"])))
