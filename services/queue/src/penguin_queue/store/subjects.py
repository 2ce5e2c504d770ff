"""People in the queue: there are none but in what callers wrote where only ids belong. Jobs of emails that were taken back
are cancelled, and where an address stands all the same is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from penguin_chassis import subjects
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_chassis.subjects import Order, Page, Phase, SubjectRecord
from penguin_queue.store.control import sql as control_sql

sql = load("penguin_queue.store", "subjects.sql")

LOOKED_THROUGH = ("jobs", "completed_jobs", "dead_jobs", "schedules", "unique_keys", "job_attempts")
# Jobs looked at in one page, for those of some emails.
JOBS_A_PAGE = 5_000


class SubjectStore:
    """Subjects of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def phases(self, order: Order) -> Sequence[Phase]:
        """With emails: their jobs. Without: everything there is, looked through."""
        if order.email_ids:
            return (Phase("jobs", _cancel),)
        queries = sql.names()
        return [Phase(name, subjects.mentions(name, queries[name])) for name in LOOKED_THROUGH]

    async def export(self, tenant_id: UUID, address: str, storage_keys: Sequence[str]) -> AsyncIterator[SubjectRecord]:
        """Nothing: payloads hold ids."""
        nothing: tuple[SubjectRecord, ...] = ()
        for record in nothing:
            yield record


async def _cancel(connection: Connection, order: Order, after: str) -> Page:
    ids = [str(each) for each in order.email_ids]
    rows = await connection.fetch(sql.jobs_of_emails, order.tenant_id, int(after or -1), JOBS_A_PAGE, ids)
    theirs = [row["id"] for row in rows if row["theirs"]]
    ended = await connection.fetch(control_sql.cancel, order.tenant_id, theirs, order.at) if theirs else []
    more = str(rows[-1]["id"]) if len(rows) == JOBS_A_PAGE else None
    return Page({"jobs": len(ended)} if ended else {}, next=more)
