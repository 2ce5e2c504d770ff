"""Scheduled jobs that fall due. As a rule a round takes all that are; of more than that it takes the earliest, and beside them a
share of each tenant's: who has very many due at one moment delays nobody's single job by more than a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis.pool import Database
from penguin_chassis.queries import load

sql = load("penguin_queue.store", "due.sql")

# Tenants with scheduled jobs that one round looks at, due or not: some microseconds each.
TENANTS_MAX = 500
NOBODY = UUID(int=0)


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
