"""Attempts at handing emails over: the claim by compare-and-set, the outcome, and the settling of what nobody knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID, uuid4, uuid5

from penguin_chassis import barrier, outbox
from penguin_chassis.barrier import Step
from penguin_chassis.faults import Fault, NotFound
from penguin_chassis.pool import Connection, Database
from penguin_oltp.domain import emails as ledger
from penguin_oltp.domain.emails import Claim, Email, Outcome, Requeued, Started
from penguin_oltp.domain.subjects import ERASED
from penguin_oltp.domain.tenants import ACTIVE, CLOSED
from penguin_oltp.store.emails import SEND_JOB, send_job
from penguin_oltp.store.transitions import in_doubt, lock, move, sql, take_back

# The note of an attempt that somebody settled without saying why.
SETTLED = "settled"


class AttemptStore:
    """Attempts of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def start_batch(
        self, tenant_id: UUID, items: Sequence[tuple[Step, Claim]], at: datetime
    ) -> list[Started | Fault]:
        """Claim emails for sending. Answers in the order of `items`; NotFound for one the tenant does not have."""

        async def begin(fresh: list[tuple[Step, Claim]]) -> list[Started | Fault]:
            return await _start(connection, tenant_id, [claim for _, claim in fresh], at)

        async with self._db.tenant(tenant_id) as connection:
            return await barrier.once_each(connection, items, Started, begin)

    async def record_batch(self, tenant_id: UUID, items: Sequence[tuple[Step, Outcome]]) -> list[str | Fault]:
        """Store outcomes; answers with each email's status after it. Naturally idempotent, and barred besides."""

        async def write(fresh: list[tuple[Step, Outcome]]) -> list[str | Fault]:
            return await _record(connection, tenant_id, [outcome for _, outcome in fresh], fresh[0][0].at)

        async with self._db.tenant(tenant_id) as connection:
            return await barrier.once_each(connection, items, str, write)

    async def settle(self, step: Step, email_id: UUID, settlement: str, reason: str) -> Email:
        """Decide an email whose outcome is unknown; a re-send owes a new job to the queue. Raises ResourceExhausted then."""
        tenant_id = step.tenant_id
        async with self._db.tenant(tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Email)) is not None:
                return done.reply
            email = (await lock(connection, tenant_id, [email_id])).get(email_id)
            if email is None:
                raise NotFound("email", email_id)
            settled = ledger.settle(email, settlement, step.at)
            await move(connection, tenant_id, [(email, settled)])
            outcome = {"sent": "sent", "failed": "rejected"}.get(settlement, "unknown")
            await connection.execute(
                sql.finish, tenant_id, [email_id], [email.attempt], [outcome], [step.at], [0], [""], [reason or SETTLED]
            )
            if settled.status == ledger.QUEUED:
                await outbox.take_on(self._db, connection, tenant_id, [_send_again(settled)], step.at)
            return await barrier.record(connection, step, settled, Email)

    async def cancel(self, step: Step, ids: Sequence[UUID]) -> list[UUID]:
        """Take back emails that are still queued; returns those that were. One that may have been delivered is held instead."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, list[UUID])) is not None:
                return done.reply
            cancelled = await take_back(connection, step.tenant_id, ids, step.at)
            return await barrier.record(connection, step, cancelled, list[UUID])

    async def requeue(self, step: Step, ids: Sequence[UUID]) -> Requeued:
        """Owe the jobs of emails that are still queued once more; holds those that were left in sending, or may have been sent
        before this database was put back. Raises ResourceExhausted."""
        tenant_id = step.tenant_id
        async with self._db.tenant(tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Requeued)) is not None:
                return done.reply
            put_back_at = await connection.fetchval(sql.put_back_at)
            emails = await lock(connection, tenant_id, ids)
            moves = [
                (email, after)
                for email in emails.values()
                if (after := ledger.requeue(email, at=step.at, put_back_at=put_back_at)) is not None
            ]
            await _give_up(connection, tenant_id, [old for old, _ in moves if old.status == ledger.SENDING], step.at)
            await move(connection, tenant_id, moves)
            lacking = [after for _, after in moves if after.status != ledger.OUTCOME_UNKNOWN]
            if lacking:
                jobs = [send_job(e.id, e.priority, e.email_account_id, e.send_at) for e in lacking]
                # Known by the request that asked for it, as are its jobs in Queue.
                owed = outbox.Owed(
                    uuid5(tenant_id, step.key), "queue", "enqueue_jobs", {"kind": SEND_JOB, "jobs": jobs}
                )
                await outbox.take_on(self._db, connection, tenant_id, [owed], step.at)
            held = tuple(after.id for _, after in moves if after.status == ledger.OUTCOME_UNKNOWN)
            return await barrier.record(connection, step, Requeued(tuple(e.id for e in lacking), held), Requeued)


async def _start(
    connection: Connection, tenant_id: UUID, claims: Sequence[Claim], at: datetime
) -> list[Started | Fault]:
    ids = [claim.email_id for claim in claims]
    held = await lock(connection, tenant_id, ids)
    policy, status = await connection.fetchrow(sql.tenant, tenant_id) or (ledger.HOLD, ACTIVE)
    addresses = sorted({email.recipient.lower() for email in held.values()})
    suppressed = {row["address_key"] for row in await connection.fetch(sql.suppressed, tenant_id, addresses)} | {ERASED}
    cancelled = await _cancelled_campaigns(connection, tenant_id, held.values())

    def stopped(email: Email) -> bool:
        return status == CLOSED or email.campaign_id in cancelled

    # Asked of those alone that are not to be tried again.
    ends = {
        email.id: email.attempt + 1 for email in held.values()
        if email.attempt and email.status == ledger.QUEUED and (stopped(email) or email.recipient.lower() in suppressed)
    }  # fmt: skip
    doubtful = await in_doubt(connection, tenant_id, ends)
    held |= await _forgotten(connection, tenant_id, held, claims, at)
    answers: list[Started | Fault] = []
    moves: list[tuple[Email, Email]] = []
    for email_id in ids:
        email = held.get(email_id)
        if email is None:
            answers.append(NotFound("email", email_id, field="email_id"))
            continue
        started = ledger.start(
            email, at=at, suppressed=email.recipient.lower() in suppressed, policy=policy,
            cancelled=stopped(email), doubtful=email_id in doubtful,
        )  # fmt: skip
        held[email_id] = started.email
        moves.append((email, started.email))
        answers.append(started)
    silent = [old for old, new in moves if old.status == ledger.SENDING and old.version != new.version]
    await _give_up(connection, tenant_id, silent, at)
    await move(connection, tenant_id, _merged(moves))
    begun = [a.email for a in answers if isinstance(a, Started) and a.decision == "send"]
    await _begin(connection, tenant_id, [(email.id, email.attempt, at) for email in begun])
    return answers


async def _begin(connection: Connection, tenant_id: UUID, attempts: Sequence[tuple[UUID, int, datetime]]) -> None:
    """Write attempts (email, number, since when)."""
    if attempts:
        await connection.execute(sql.begin, tenant_id, *map(list, zip(*attempts, strict=True)))


async def _forgotten(
    connection: Connection, tenant_id: UUID, held: Mapping[UUID, Email], claims: Sequence[Claim], at: datetime
) -> dict[UUID, Email]:
    """Queued emails whose job was in other hands before, and of which nothing was begun since this database was put back: in
    sending, as they may have been. Who holds such an attempt went silent, and is given up as any other."""
    asked = {claim.email_id for claim in claims if claim.lease_lost_before}.intersection(held)
    lost = {email_id for email_id in asked if held[email_id].status == ledger.QUEUED}
    if not lost:
        return {}
    put_back_at = await connection.fetchval(sql.put_back_at)
    since = {row["email_id"] for row in await connection.fetch(sql.begun_since, tenant_id, list(lost), put_back_at)}
    forgettable = [held[email_id] for email_id in lost - since if ledger.forgettable(held[email_id], put_back_at)]
    emails = {email.id: ledger.remembered(email, email.attempt + 1, at) for email in forgettable}
    await _begin(connection, tenant_id, [(email.id, email.attempt, at) for email in emails.values()])
    return emails


async def _cancelled_campaigns(connection: Connection, tenant_id: UUID, emails: Iterable[Email]) -> set[UUID | None]:
    campaigns = sorted({email.campaign_id for email in emails if email.campaign_id is not None})
    if not campaigns:
        return set()
    return {row["id"] for row in await connection.fetch(sql.cancelled_campaigns, tenant_id, campaigns)}


async def _give_up(connection: Connection, tenant_id: UUID, emails: Sequence[Email], at: datetime) -> None:
    """Mark the attempts of workers that went silent as unknown."""
    if emails:
        n = len(emails)
        await connection.execute(
            sql.finish, tenant_id, [e.id for e in emails], [e.attempt for e in emails], ["unknown"] * n, [at] * n,
            [0] * n, [""] * n, [""] * n,
        )  # fmt: skip


async def _record(
    connection: Connection, tenant_id: UUID, outcomes: Sequence[Outcome], at: datetime
) -> list[str | Fault]:
    held = await lock(connection, tenant_id, [outcome.email_id for outcome in outcomes])
    last = {o.email_id: o.attempt for o in outcomes if o.attempt > 1 and (o.final or o.outcome == "rejected")}
    doubtful = await in_doubt(connection, tenant_id, last)
    put_back_at = await _put_back_at(connection, held, outcomes)
    answers: list[str | Fault] = []
    moves: list[tuple[Email, Email]] = []
    written: list[Outcome] = []
    lost: list[Outcome] = []
    for outcome in outcomes:
        email = held.get(outcome.email_id)
        if email is None:
            answers.append(NotFound("email", outcome.email_id, field="email_id"))
            continue
        was_lost = put_back_at is not None and ledger.lost(email, outcome, put_back_at)
        known = ledger.remembered(email, outcome.attempt, outcome.finished_at) if was_lost else email
        try:
            after = ledger.conclude(known, outcome, doubtful=email.id in doubtful)
        except Fault as fault:
            answers.append(fault)
            continue
        if was_lost:
            lost.append(outcome)
        held[email.id] = after
        moves.append((email, after))
        written.append(outcome)
        answers.append(after.status)
    await move(connection, tenant_id, _merged(moves))
    # Given up as unknown, its job is gone: a late word that it was never handed over owes it another.
    revived = [
        new for old, new in _merged(moves) if (old.status, new.status) == (ledger.OUTCOME_UNKNOWN, ledger.QUEUED)
    ]
    await outbox.append(connection, tenant_id, [_send_again(email) for email in revived], at)
    await _begin(connection, tenant_id, [(o.email_id, o.attempt, o.finished_at) for o in lost])
    await connection.execute(
        sql.finish, tenant_id, [o.email_id for o in written], [o.attempt for o in written],
        [o.outcome for o in written], [o.finished_at for o in written], [o.smtp_code for o in written],
        [o.enhanced_status for o in written], [""] * len(written),
    )  # fmt: skip
    return answers


async def _put_back_at(
    connection: Connection, held: Mapping[UUID, Email], outcomes: Sequence[Outcome]
) -> datetime | None:
    """When this database was put back; None, without a trip, where nobody tells of an attempt that it does not know."""
    if any(o.email_id in held and o.attempt > held[o.email_id].attempt for o in outcomes):
        at: datetime = await connection.fetchval(sql.put_back_at)
        return at
    return None


def _merged(moves: Sequence[tuple[Email, Email]]) -> list[tuple[Email, Email]]:
    """One move per email: from where it first stood to where it last came."""
    merged: dict[UUID, tuple[Email, Email]] = {}
    for before, after in moves:
        first = merged.get(before.id, (before, after))[0]
        merged[before.id] = (first, after)
    return list(merged.values())


def _send_again(email: Email) -> outbox.Owed:
    job = send_job(email.id, email.priority, email.email_account_id)
    return outbox.Owed(uuid4(), "queue", "enqueue_jobs", {"kind": SEND_JOB, "jobs": [job]})
