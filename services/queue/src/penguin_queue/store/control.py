"""The tenant's word on its jobs: cancelling them. What becomes of marked ones is the leases' store's to see to, by
`end_marked` and `end_lost` in its own transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_queue.domain.jobs import LeaseRef

sql = load("penguin_queue.store", "control.sql")


@dataclass(frozen=True)
class Cancelled:
    """Ids of jobs that ended by a cancellation, and of those marked for it: in order."""

    ended: list[int]
    marked: list[int]


class ControlStore:
    """What tenants do to their jobs, each call within one tenant."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def cancel(self, step: Step, ids: Sequence[int]) -> Cancelled:
        """End jobs that wait, mark those that are leased."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Cancelled)) is not None:
                return done.reply
            rows = await connection.fetch(sql.cancel, step.tenant_id, list(ids), step.at)
            ended, marked = (sorted(row["id"] for row in rows if row["ended"] is each) for each in (True, False))
            return await barrier.record(connection, step, Cancelled(ended, marked), Cancelled)


async def end_marked(
    connection: Connection, refs: Sequence[LeaseRef], at: datetime, *, errors: Sequence[str] = (), attempts: int = 0
) -> set[LeaseRef]:
    """End those of these jobs whose cancellation is wished, with the worker's words on them and so many more attempts;
    returns them."""
    ids, tokens = [ref.job_id for ref in refs], [ref.token for ref in refs]
    rows = await connection.fetch(sql.end_marked, ids, tokens, list(errors) or [""] * len(ids), at, attempts)
    return {LeaseRef(row["id"], row["lease_token"]) for row in rows}


async def end_lost(connection: Connection, at: datetime, limit: int) -> int:
    """End jobs whose cancellation is wished and whose lease has run out; returns how many, at most `limit`."""
    ended = await connection.execute(sql.end_marked_lost, at, limit)
    return int(ended.rsplit(" ", 1)[-1])
