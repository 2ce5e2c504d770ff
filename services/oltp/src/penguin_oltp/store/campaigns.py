"""Campaigns, their state, and what the ledger says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from penguin_chassis import barrier, outbox
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain import campaigns
from penguin_oltp.domain.campaigns import Campaign, Progress
from penguin_oltp.domain.leads import Lead
from penguin_oltp.store import rows
from penguin_oltp.store.leads import read_lead

sql = load("penguin_oltp.store", "campaigns.sql")

COMPLETE_JOB = "campaign.complete"
# Open emails are counted exactly up to here.
COUNT_LIMIT = 10_000
# Emails taken back in one transaction.
TAKEN_BACK = 5_000
# Leads that one page of pending recipients looks at, at most.
STRETCH = 10_000


@dataclass(frozen=True)
class Recipients:
    """A page of pending recipients; `after` is where the next one begins, None where there is none."""

    leads: list[Lead]
    after: UUID | None


class CampaignStore:
    """Campaigns of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, campaign: Campaign) -> Campaign:
        """Add one; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant)."""

        async def insert(connection: Connection) -> Campaign:
            await rows.write(connection, sql.insert, rows.columns(campaign))
            return campaign

        return await rows.once(self._db.tenant(step.tenant_id), step, Campaign, insert)

    async def get(self, tenant_id: UUID, campaign_id: UUID) -> Campaign:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, campaign_id)
        return rows.read(Campaign, rows.found(record, "campaign", campaign_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int, *, status: str) -> list[Campaign]:
        """Up to `limit` of them (in one status, where it is given) after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            if status:
                found = await connection.fetch(sql.list_in_status, tenant_id, after, limit, status)
            else:
                found = await connection.fetch(sql.list, tenant_id, after, limit)
        return [rows.read(Campaign, record) for record in found]

    async def update(self, step: Step, campaign_id: UUID, etag: str, changes: Mapping[str, Any]) -> Campaign:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STATE_CONFLICT, REFERENCE_MISSING)."""

        async def write(connection: Connection) -> Campaign:
            record = await connection.fetchrow(sql.hold, step.tenant_id, campaign_id)
            held = rows.read(Campaign, rows.checked(record, "campaign", campaign_id, etag))
            campaign = campaigns.update(held, changes, step.at)
            await rows.write(connection, sql.update, rows.columns(campaign))
            return campaign

        return await rows.once(self._db.tenant(step.tenant_id), step, Campaign, write)

    async def delete(self, step: Step, campaign_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED)."""

        async def remove(connection: Connection) -> bool:
            await rows.remove(connection, step, "campaign", campaign_id, etag, hold=sql.hold, delete=sql.delete)
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)

    async def move(
        self, step: Step, campaign_id: UUID, transition: Callable[[Campaign, datetime], Campaign]
    ) -> Campaign:
        """Carry out one of the domain's transitions (start, pause, cancel); raises NotFound and what it raises.

        As a compensation it undoes what its action did: nothing where that was never done, or the campaign has ended.
        """

        async def act(connection: Connection) -> Campaign:
            held = await _hold(connection, step.tenant_id, campaign_id)
            if step.operation == barrier.COMPENSATION and (
                held.status in campaigns.ENDED or await barrier.undone(connection, step, Campaign) is None
            ):
                return held
            return await _write(connection, held, transition(held, step.at))

        return await rows.once(self._db.tenant(step.tenant_id), step, Campaign, act)

    async def seal(self, step: Step, campaign_id: UUID) -> Campaign:
        """Record that every recipient's email stands, and owe the job that completes the campaign once they are sent.

        Raises NotFound, FailedPrecondition (STATE_CONFLICT) unless it runs, ResourceExhausted (BACKLOG_FULL).
        """

        async def act(connection: Connection) -> Campaign:
            held = await _hold(connection, step.tenant_id, campaign_id)
            sealed = campaigns.seal(held, step.at)
            if sealed is not held:
                await outbox.take_on(self._db, connection, step.tenant_id, [_completion(sealed)], step.at)
            return await _write(connection, held, sealed)

        return await rows.once(self._db.tenant(step.tenant_id), step, Campaign, act)

    async def cancel(self, step: Step, campaign_id: UUID) -> Campaign:
        """End it for good: none of its emails is claimed from now on. Raises NotFound, FailedPrecondition."""
        return await self.move(step, campaign_id, campaigns.cancel)

    async def take_back(self, tenant_id: UUID, campaign_id: UUID, at: datetime) -> bool:
        """Cancel some of a cancelled campaign's queued emails (at most 5,000); whether there may be more."""
        async with self._db.tenant(tenant_id) as connection:
            tag = await connection.execute(sql.take_back, tenant_id, campaign_id, at, TAKEN_BACK)
        return tag == f"UPDATE {TAKEN_BACK}"

    async def complete(self, step: Step, campaign_id: UUID) -> Campaign:
        """End it if nothing of it is on its way, and owe the notification with it.

        Raises NotFound, FailedPrecondition (STATE_CONFLICT, with the number of open emails up to 10,000).
        """

        async def act(connection: Connection) -> Campaign:
            held = await _hold(connection, step.tenant_id, campaign_id)
            count = await connection.fetchval(sql.open_emails, step.tenant_id, campaign_id, COUNT_LIMIT)
            completed = campaigns.complete(held, count, step.at)
            if completed is not held:
                await outbox.append(connection, step.tenant_id, [_announcement(completed)], step.at)
            return await _write(connection, held, completed)

        return await rows.once(self._db.tenant(step.tenant_id), step, Campaign, act)

    async def pending(self, tenant_id: UUID, campaign_id: UUID, step_id: UUID, after: UUID, limit: int) -> Recipients:
        """Up to `limit` active leads of the audience without an email for the step, not suppressed.

        Raises NotFound (the campaign, or the step in it), FailedPrecondition (STATE_CONFLICT) unless it runs.
        """
        async with self._db.tenant(tenant_id) as connection:
            campaign = await _get(connection, tenant_id, campaign_id)
            rows.found(await connection.fetchrow(sql.step, tenant_id, campaign_id, step_id), "sequence_step", step_id)
            if campaign.status != campaigns.RUNNING:
                raise campaigns.conflict(campaign, "Only a running campaign has recipients waiting.")
            audience = campaign.audience_list
            leads = [
                read_lead(record)
                for record in await connection.fetch(sql.pending, tenant_id, audience, step_id, after, limit, STRETCH)
            ]
            if len(leads) == limit:
                return Recipients(leads, leads[-1].id)
            end = await connection.fetchval(sql.stretch_end, tenant_id, audience, after, STRETCH - 1)
        return Recipients(leads, end)

    async def progress(self, tenant_id: UUID, campaign_id: UUID) -> Progress:
        """What the ledger counts for the campaign; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            await _get(connection, tenant_id, campaign_id)
            statuses = await connection.fetch(sql.count_statuses, tenant_id, campaign_id)
            events = await connection.fetch(sql.count_events, tenant_id, campaign_id)
        return Progress({r["status"]: r["count"] for r in statuses}, {r["kind"]: r["count"] for r in events})


async def _get(connection: Connection, tenant_id: UUID, campaign_id: UUID) -> Campaign:
    record = await connection.fetchrow(sql.get, tenant_id, campaign_id)
    return rows.read(Campaign, rows.found(record, "campaign", campaign_id))


async def _hold(connection: Connection, tenant_id: UUID, campaign_id: UUID) -> Campaign:
    record = await connection.fetchrow(sql.hold, tenant_id, campaign_id)
    return rows.read(Campaign, rows.found(record, "campaign", campaign_id))


async def _write(connection: Connection, before: Campaign, after: Campaign) -> Campaign:
    if after is not before:
        await rows.write(connection, sql.update, rows.columns(after))
    return after


def _completion(campaign: Campaign) -> outbox.Owed:
    job = {"campaign_id": str(campaign.id)}
    return outbox.Owed(uuid4(), "queue", "enqueue_jobs", {"kind": COMPLETE_JOB, "jobs": [job]})


def _announcement(campaign: Campaign) -> outbox.Owed:
    notification = {
        "type": "campaign.completed",
        "title": "Campaign completed",
        "message": f"{campaign.name}: every email has been handed over or given up.",
        "subject_ref": str(campaign.id),
        # A campaign completes once, whoever announces it.
        "request_key": f"campaign.completed:{campaign.id}",
    }
    return outbox.Owed(uuid4(), "notifications", "create_notifications", {"notifications": [notification]})
