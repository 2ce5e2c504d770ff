"""Steps of campaigns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.sequence_steps import SequenceStep
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "sequence_steps.sql")


class SequenceStepStore:
    """Steps of campaigns of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, sequence_step: SequenceStep) -> SequenceStep:
        """Add one; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant)."""

        async def insert(connection: Connection) -> SequenceStep:
            await rows.write(connection, sql.insert, rows.columns(sequence_step))
            return sequence_step

        return await rows.once(self._db.tenant(step.tenant_id), step, SequenceStep, insert)

    async def get(self, tenant_id: UUID, sequence_step_id: UUID) -> SequenceStep:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, sequence_step_id)
        return rows.read(SequenceStep, rows.found(record, "sequence_step", sequence_step_id))

    async def list_page(
        self, tenant_id: UUID, after: UUID, limit: int, *, campaign_id: UUID | None
    ) -> list[SequenceStep]:
        """Up to `limit` of them (of one campaign, where it is given) after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            if campaign_id is None:
                found = await connection.fetch(sql.list, tenant_id, after, limit)
            else:
                found = await connection.fetch(sql.list_of_campaign, tenant_id, after, limit, campaign_id)
        return [rows.read(SequenceStep, record) for record in found]

    async def update(self, step: Step, sequence_step_id: UUID, etag: str, changes: Mapping[str, Any]) -> SequenceStep:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists, FailedPrecondition (REFERENCE_MISSING)."""

        async def write(connection: Connection) -> SequenceStep:
            record = await connection.fetchrow(sql.hold, step.tenant_id, sequence_step_id)
            held = rows.read(SequenceStep, rows.checked(record, "sequence_step", sequence_step_id, etag))
            sequence_step = rows.changed(held, changes, step.at)
            await rows.write(connection, sql.update, rows.columns(sequence_step))
            return sequence_step

        return await rows.once(self._db.tenant(step.tenant_id), step, SequenceStep, write)

    async def delete(self, step: Step, sequence_step_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED)."""

        async def remove(connection: Connection) -> bool:
            await rows.remove(
                connection, step, "sequence_step", sequence_step_id, etag, hold=sql.hold, delete=sql.delete
            )
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)
