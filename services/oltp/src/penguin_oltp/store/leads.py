"""Leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from penguin_chassis import barrier, subjects
from penguin_chassis.barrier import Step
from penguin_chassis.faults import Fault
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.leads import Lead
from penguin_oltp.store import constraints, rows
from penguin_oltp.store.subjects import WRITING, erased, erased_among

sql = load("penguin_oltp.store", "leads.sql")

_PLAIN = ("id", "email", "first_name", "last_name", "company", "list", "status")


class LeadStore:
    """Leads of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create_batch(
        self, tenant_id: UUID, items: Sequence[tuple[Step, Lead]], *, gate: Step | None = None
    ) -> list[Lead | Fault]:
        """Add many. Answers in the order of `items`; AlreadyExists for an address that its list has,
        FailedPrecondition (SUBJECT_ERASED) for one whose person was erased.

        Raises NotFound for an unknown tenant.
        """

        async def write(fresh: list[tuple[Step, Lead]]) -> list[Fault | None]:
            return await _insert(connection, tenant_id, [lead for _, lead in fresh])

        async with self._db.tenant(tenant_id, beside=WRITING) as connection:
            if gate is not None:
                await barrier.claim(connection, gate, bool)
            return await barrier.once_each(connection, items, Lead, write, foresee=lambda lead: lead)

    async def create(self, step: Step, lead: Lead) -> Lead:
        """Add one: a batch of one, whose fault is raised."""
        (answer,) = await self.create_batch(step.tenant_id, [(step, lead)])
        if isinstance(answer, Fault):
            raise answer
        return answer

    async def get(self, tenant_id: UUID, lead_id: UUID) -> Lead:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, lead_id)
        return read_lead(rows.found(record, "lead", lead_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int, *, audience: str, email: str) -> list[Lead]:
        """Up to `limit` leads after an id, in the order of their ids; of one list, of one address, where given."""
        async with self._db.tenant(tenant_id) as connection:
            if email:
                found = await connection.fetch(sql.list_by_email, tenant_id, after, limit, email, audience)
            elif audience:
                found = await connection.fetch(sql.list_in, tenant_id, after, limit, audience)
            else:
                found = await connection.fetch(sql.list, tenant_id, after, limit)
        return [read_lead(record) for record in found]

    async def update(self, step: Step, lead_id: UUID, etag: str, changes: Mapping[str, Any]) -> Lead:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists, FailedPrecondition (REFERENCE_MISSING,
        SUBJECT_ERASED)."""

        async def write(connection: Connection) -> Lead:
            record = await connection.fetchrow(sql.hold, step.tenant_id, lead_id)
            held = read_lead(rows.checked(record, "lead", lead_id, etag))
            lead = rows.changed(held, changes, step.at)
            if "email" in changes and await erased_among(connection, step.tenant_id, [lead.email]):
                raise erased("email")
            await rows.write(connection, sql.update, _columns(lead))
            return lead

        return await rows.once(self._db.tenant(step.tenant_id, beside=WRITING), step, Lead, write)

    async def delete(self, step: Step, lead_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED, LEGAL_HOLD)."""

        async def remove(connection: Connection) -> bool:
            await connection.execute(subjects.sql.no_new_holds)
            if (hold := await connection.fetchval(sql.kept, step.tenant_id, lead_id)) is not None:
                raise subjects.kept_by(hold)
            await rows.remove(connection, step, "lead", lead_id, etag, hold=sql.hold, delete=sql.delete)
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)


def _columns(lead: Lead) -> list[Any]:
    return rows.columns(lead, custom_fields=_json(lead.custom_fields))


def read_lead(record: rows.Record) -> Lead:
    """A row of `leads` as the domain sees it."""
    return rows.read(Lead, record, custom_fields=orjson.loads(record["custom_fields"]))


def _json(fields: Mapping[str, str]) -> str:
    return orjson.dumps(fields).decode()


async def _insert(connection: Connection, tenant_id: UUID, leads: Sequence[Lead]) -> list[Fault | None]:
    """Insert the leads that can be; answers why not, in order."""
    named = rows.firsts(leads)
    columns = [[getattr(lead, name) for lead in named.values()] for name in _PLAIN]
    columns.insert(-1, [_json(lead.custom_fields) for lead in named.values()])
    with constraints.writing(tenant_id):
        inserted = await connection.fetch(sql.insert, tenant_id, leads[0].created_at, *columns)
    new = {record["id"] for record in inserted}
    left_out = [lead.email for lead in named.values() if lead.id not in new]
    barred = await erased_among(connection, tenant_id, left_out) if left_out else set()
    answers: list[Fault | None] = []
    for lead in leads:
        if named[lead.id] is not lead:
            answers.append(constraints.taken("lead", "id"))
        elif lead.email in barred:
            answers.append(erased("email"))
        else:
            answers.append(None if lead.id in new else constraints.taken("lead", "email"))
    return answers
