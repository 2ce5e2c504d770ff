"""The ledger's rows: the pivot of a send, and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID, uuid4

from pydantic import TypeAdapter

from penguin_chassis import barrier, outbox
from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists, FailedPrecondition, Fault, NotFound
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.campaigns import ENDED
from penguin_oltp.domain.emails import (
    Attempt,
    Created,
    CreatedEmail,
    Email,
    NewEmail,
    Tally,
    claimable,
    sendable,
)
from penguin_oltp.store import rows
from penguin_oltp.store.subjects import WRITING, erased_among, kept_too

sql = load("penguin_oltp.store", "emails.sql")

SEND_JOB = "email.send"
_TALLIES = TypeAdapter(tuple[Tally, ...])
_ATTEMPTS = TypeAdapter(tuple[Attempt, ...])


class EmailStore:
    """Emails of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create_batch(
        self,
        tenant_id: UUID,
        items: Sequence[tuple[Step, NewEmail]],
        *,
        gate: Step | None,
        claim_by: datetime,
        generation: int,
        at: datetime,
    ) -> list[Created]:
        """Write rows, and owe "claim the content" and "enqueue the job", in one transaction: the pivot.

        Answers in the order of `items`. Raises FailedPrecondition (CONTENT_CLAIM_EXPIRED) for the whole batch once the
        contents' claim_by has passed, NotFound for an unknown tenant, ResourceExhausted (BACKLOG_FULL) while
        the outbox is full.
        """
        claimable(claim_by, at)

        async def write(fresh: list[tuple[Step, NewEmail]]) -> list[Fault | None]:
            return await _write(self._db, connection, tenant_id, [email for _, email in fresh], generation, at)

        async with self._db.tenant(tenant_id, beside=WRITING) as connection:
            if gate is not None:
                await barrier.claim(connection, gate, bool)
            return await barrier.once_each(connection, items, CreatedEmail, write, foresee=_created)

    async def get(self, tenant_id: UUID, email_id: UUID) -> Email:
        """One email with its tallies and attempts; raises NotFound."""
        found = await self._db.one_trip(sql.get, tenant_id, email_id)
        if not found:
            raise NotFound("email", email_id)
        row = found[0]
        return replace(
            rows.read(Email, row["email_row"]),
            tallies=_TALLIES.validate_json(row["tallies"] or "[]"),
            attempts=_ATTEMPTS.validate_json(row["attempts"] or "[]"),
        )

    async def get_many(self, tenant_id: UUID, ids: Sequence[UUID]) -> list[Email]:
        """The emails the tenant has of these, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            return [rows.read(Email, row) for row in await connection.fetch(sql.get_many, tenant_id, list(ids))]

    async def list_page(
        self, tenant_id: UUID, *, after: UUID, limit: int, campaign_id: UUID | None, status: str, recipient: str
    ) -> list[Email]:
        """Up to `limit` emails after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            found = await connection.fetch(sql.list, tenant_id, after, campaign_id, status, recipient, limit)
        return [rows.read(Email, row) for row in found]


async def _write(
    db: Database, connection: Connection, tenant_id: UUID, emails: Sequence[NewEmail], generation: int, at: datetime
) -> list[Fault | None]:
    """Insert the emails that can be, and owe what follows from them; answers why not, in order."""
    named = rows.firsts(emails)
    faulty = await _missing(connection, tenant_id, emails) | await _ended(connection, tenant_id, emails) | _late(emails)
    inserted, holds = await _insert(
        connection, tenant_id, [e for e in named.values() if e.id not in faulty], generation, at
    )
    owed = _owed([e for e in named.values() if e.id in inserted])
    if holds:
        owed += kept_too(await connection.fetch(sql.held, tenant_id, sorted(inserted)))
    await outbox.take_on(db, connection, tenant_id, owed, at)
    left_out = [e for e in named.values() if e.id not in faulty and e.id not in inserted]
    faulty |= await _erased(connection, tenant_id, left_out)
    taken = AlreadyExists("An email for this lead and step, or with this id or key, exists.", field="lead_id")
    return [
        None if email.id in inserted and named[email.id] is email else faulty.get(email.id, taken) for email in emails
    ]


def _created(email: NewEmail) -> CreatedEmail:
    return CreatedEmail(email.id, email.message_id, email.content_storage_key)


def _late(emails: Sequence[NewEmail]) -> dict[UUID, Fault]:
    """Emails that could never have a job."""
    late: dict[UUID, Fault] = {}
    for email in emails:
        try:
            sendable(email.send_at)
        except Fault as fault:
            late[email.id] = fault
    return late


async def _missing(connection: Connection, tenant_id: UUID, emails: Sequence[NewEmail]) -> dict[UUID, Fault]:
    """Emails that refer to what the tenant does not have."""
    fields = ("campaign_id", "step_id", "lead_id", "email_account_id")
    wanted = [sorted({v for e in emails if (v := getattr(e, field)) is not None}) for field in fields]
    if not any(wanted):
        return {}
    missing = {(row["field"], row["id"]) for row in await connection.fetch(sql.missing_references, tenant_id, *wanted)}
    return {
        email.id: FailedPrecondition(
            f"{field} refers to nothing of this tenant.", reason="REFERENCE_MISSING", field=field,
            metadata={"field": field},
        )
        for email in emails
        for field in fields
        if missing and (field, getattr(email, field)) in missing
    }  # fmt: skip


async def _erased(connection: Connection, tenant_id: UUID, emails: Sequence[NewEmail]) -> dict[UUID, Fault]:
    """Emails to people who were erased."""
    if not emails:
        return {}
    barred = await erased_among(connection, tenant_id, (email.recipient for email in emails))
    refusal = FailedPrecondition("The recipient was erased.", reason="RECIPIENT_SUPPRESSED", field="recipient")
    return {email.id: refusal for email in emails if email.recipient in barred}


async def _ended(connection: Connection, tenant_id: UUID, emails: Sequence[NewEmail]) -> dict[UUID, Fault]:
    """Emails of campaigns that have ended. The others cannot end before this transaction does."""
    wanted = sorted({email.campaign_id for email in emails if email.campaign_id is not None})
    if not wanted:
        return {}
    found = await connection.fetch(sql.hold_campaigns, tenant_id, wanted)
    ended = {row["id"]: row["status"] for row in found if row["status"] in ENDED}
    return {
        email.id: FailedPrecondition(
            "The campaign has ended.", field="campaign_id",
            metadata={"resource": "campaign", "state": ended[email.campaign_id]},
        )
        for email in emails
        if email.campaign_id in ended
    }  # fmt: skip


async def _insert(
    connection: Connection, tenant_id: UUID, emails: Sequence[NewEmail], generation: int, at: datetime
) -> tuple[set[UUID], bool]:
    """Those that were inserted, and whether there are people whom a legal hold keeps."""
    if not emails:
        return set(), False
    columns = (
        "id", "recipient", "recipient_name", "sender", "sender_name", "subject", "priority", "content_storage_key",
        "campaign_id", "step_id", "lead_id", "email_account_id", "message_id", "send_at",
    )  # fmt: skip
    values = [[getattr(email, column) for email in emails] for column in columns]
    found = await connection.fetch(sql.insert, tenant_id, generation, at, *values)
    inserted = {row["id"] for row in found}
    if not inserted and await connection.fetchval(sql.tenant, tenant_id) is None:
        raise NotFound("tenant", tenant_id, field="tenant_id")
    return inserted, any(row["holds"] for row in found)


def send_job(
    email_id: UUID, priority: str, mailbox_id: UUID | None, run_at: datetime | None = None
) -> dict[str, str | None]:
    """What an email's sending asks of Queue; it goes by the rate of its mailbox, where it has one."""
    job = {"email_id": str(email_id), "priority": priority, "run_at": run_at.isoformat() if run_at else None}
    return job if mailbox_id is None else job | {"rate_key": str(mailbox_id)}


def _owed(emails: Sequence[NewEmail]) -> list[outbox.Owed]:
    """One row to claim all contents and one to enqueue all jobs: an outbox row per batch, not per email."""
    if not emails:
        return []
    jobs = [send_job(email.id, email.priority, email.email_account_id, email.send_at) for email in emails]
    keys = [email.content_storage_key for email in emails]
    return [
        outbox.Owed(uuid4(), "content", "claim_contents", {"storage_keys": keys}),
        outbox.Owed(uuid4(), "queue", "enqueue_jobs", {"kind": SEND_JOB, "jobs": jobs}),
    ]
