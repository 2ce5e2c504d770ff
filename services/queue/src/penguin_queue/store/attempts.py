"""The log of attempts that did not end well: written by the leases' store in its own transactions, read by the jobs'."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from penguin_chassis import subjects
from penguin_chassis.pool import Connection
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import Attempt

sql = load("penguin_queue.store", "attempts.sql")

# Entries of one job that are kept: a queue may allow it two hundred attempts.
KEPT = 50
# Outcomes by the numbers that rows carry.
OUTCOMES = ("", "failed", "lost")


async def record_failures(
    connection: Connection, held: Sequence[Any], errors: Sequence[tuple[str, str]], at: datetime
) -> None:
    """Note that the attempts at these jobs, rows as they were before, have failed, each with its class and message."""
    numbers = [row["attempts"] + row["lost_leases"] + 1 for row in held]
    await connection.execute(
        sql.record, at, [row["tenant_id"] for row in held], [row["id"] for row in held], numbers,
        [error for error, _ in errors], [message for _, message in errors], [row["worker_id"] for row in held],
    )  # fmt: skip
    await prune(connection, [(row["tenant_id"], row["id"], n) for row, n in zip(held, numbers, strict=True)])


async def prune(connection: Connection, written: Sequence[tuple[UUID, int, int]]) -> None:
    """Forget what is older than the last KEPT entries of these jobs, told by tenant, job and the entry just written.

    But of tenants with a legal hold on a person. While one is being put nothing goes: it is told again with the next entry.
    """
    full = [each for each in written if each[2] > KEPT]
    if full and await connection.fetchval(subjects.sql.no_new_holds_for_now):
        await connection.execute(sql.prune, [t for t, _, _ in full], [j for _, j, _ in full],
                                 [n - KEPT for _, _, n in full])  # fmt: skip


async def page(
    connection: Connection, tenant_id: UUID, job_id: int, before: tuple[datetime, int], limit: int
) -> list[Attempt]:
    """Up to `limit` entries of a job before that time and number, newest first."""
    rows = await connection.fetch(sql.page, tenant_id, job_id, *before, limit)
    return [Attempt(n, OUTCOMES[outcome], *rest) for n, outcome, *rest in rows]
