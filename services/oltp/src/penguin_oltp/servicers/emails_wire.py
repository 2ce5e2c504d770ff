"""Emails between the wire and the domain."""

from __future__ import annotations

from uuid import UUID

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis.errors import item_error
from penguin_chassis.faults import Fault
from penguin_chassis.wire import number, stamp, text, uuid_of, uuid_or_none, when, word
from penguin_oltp.domain.emails import Created, Email, NewEmail, Outcome, Started
from penguin_oltp.store.events import Event


def new_email(item: pb.NewEmail) -> NewEmail:
    """An item of a batch create."""
    return NewEmail(
        id=uuid_of(item.id),
        recipient=item.recipient,
        recipient_name=item.recipient_name,
        sender=item.sender,
        sender_name=item.sender_name,
        subject=item.subject,
        content_storage_key=item.content_storage_key,
        campaign_id=uuid_or_none(item.campaign_id),
        step_id=uuid_or_none(item.step_id),
        lead_id=uuid_or_none(item.lead_id),
        email_account_id=uuid_or_none(item.email_account_id),
        priority=word(pb.SendPriority, item.priority, "normal"),
        send_at=when(item, "send_at"),
    )


def email(row: Email) -> pb.Email:
    """A row of the ledger."""
    return pb.Email(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        recipient=row.recipient,
        recipient_name=row.recipient_name,
        sender=row.sender,
        sender_name=row.sender_name,
        subject=row.subject,
        status=number(pb.EmailStatus, row.status),
        content_storage_key=row.content_storage_key,
        content_generation=row.content_generation,
        campaign_id=text(row.campaign_id),
        step_id=text(row.step_id),
        lead_id=text(row.lead_id),
        email_account_id=text(row.email_account_id),
        message_id=row.message_id,
        attempt=row.attempt,
        priority=number(pb.SendPriority, row.priority),
        send_at=stamp(row.send_at),
        queued_at=stamp(row.queued_at),
        sending_at=stamp(row.sending_at),
        sent_at=stamp(row.sent_at),
        finished_at=stamp(row.finished_at),
        etag=str(row.version),
        tallies=[
            pb.EventTally(
                kind=number(pb.EmailEventKind, t.kind),
                count=t.count,
                first_at=stamp(t.first_at),
                last_at=stamp(t.last_at),
            )
            for t in row.tallies
            if t.kind not in {"sent", "failed", "outcome_unknown"}
        ],
        attempts=[
            pb.Attempt(
                attempt=a.attempt,
                started_at=stamp(a.started_at),
                finished_at=stamp(a.finished_at),
                outcome=number(pb.AttemptOutcome, a.outcome),
                smtp_code=a.smtp_code,
                enhanced_status=a.enhanced_status,
            )
            for a in row.attempts
        ],
    )


def created(answer: Created) -> pb.CreateEmailResult:
    """The answer to one item of a batch create."""
    if isinstance(answer, Fault):
        return pb.CreateEmailResult(error=item_error(answer))
    return pb.CreateEmailResult(
        email=pb.CreatedEmail(
            id=str(answer.id),
            message_id=answer.message_id,
            content_storage_key=answer.content_storage_key,
            status=number(pb.EmailStatus, answer.status),
        )
    )


def started(answer: Started | Fault) -> pb.StartAttemptResult:
    """The answer to one claim."""
    if isinstance(answer, Fault):
        return pb.StartAttemptResult(error=item_error(answer))
    decision = number(pb.AttemptDecision, answer.decision)
    return pb.StartAttemptResult(started=pb.StartedAttempt(decision=decision, email=email(answer.email)))


def outcome(item: pb.RecordOutcome) -> Outcome:
    """An item of a record of outcomes."""
    finished_at = when(item, "finished_at")
    if finished_at is None:
        raise ValueError("finished_at is required by the contract")
    return Outcome(
        email_id=UUID(item.email_id),
        attempt=item.attempt,
        outcome=word(pb.AttemptOutcome, item.outcome),
        smtp_code=item.smtp_code,
        enhanced_status=item.enhanced_status,
        finished_at=finished_at,
        final=item.final,
    )


def recorded(answer: str | Fault) -> pb.RecordOutcomeResult:
    """The answer to one outcome."""
    if isinstance(answer, Fault):
        return pb.RecordOutcomeResult(error=item_error(answer))
    return pb.RecordOutcomeResult(status=number(pb.EmailStatus, answer))


def event(item: pb.EmailEvent) -> Event:
    """An item of a record of events."""
    occurred_at = when(item, "occurred_at")
    if occurred_at is None:
        raise ValueError("occurred_at is required by the contract")
    return Event(UUID(item.email_id), word(pb.EmailEventKind, item.kind), item.provider_event_id, occurred_at)


def event_recorded(answer: bool | Fault) -> pb.RecordEventResult:
    """The answer to one event."""
    if isinstance(answer, Fault):
        return pb.RecordEventResult(error=item_error(answer))
    return pb.RecordEventResult(recorded=pb.RecordedEvent(repeated_event=answer))
