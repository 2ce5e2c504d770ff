"""The email ledger's values and its state machine. Clock, ids and policies are passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import UUID

from penguin_chassis.faults import FailedPrecondition, Fault, InvalidArgument

_MESSAGE_ID = re.compile(r"<([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})@")

QUEUED = "queued"
SENDING = "sending"
SENT = "sent"
FAILED = "failed"
OUTCOME_UNKNOWN = "outcome_unknown"
SUPPRESSED = "suppressed"
CANCELLED = "cancelled"
FINAL = frozenset({SENT, FAILED, SUPPRESSED, CANCELLED})

# Before this an email is to be sent: the calendar has an end, and no job is taken that is to be due later.
LATEST = datetime(9000, 1, 1, tzinfo=UTC)

# What has been in sending for longer is no worker's any more, if it has no job: a hand-over takes minutes.
SILENT = timedelta(hours=1)

HOLD = "hold"
RESEND = "resend"

# Events that prove an email arrived somewhere.
EVIDENCE = frozenset({"delivered", "opened", "opened_machine", "clicked", "replied", "complained"})
# Events after which the address must not be written to, and the suppression's reason.
SUPPRESSING = {"bounced": "bounced", "unsubscribed": "unsubscribed", "complained": "complained"}
# Events that change what a lead is, and to what.
LEAD_STATUS = {"replied": "replied", "bounced": "bounced", "unsubscribed": "unsubscribed", "complained": "unsubscribed"}


@dataclass(frozen=True)
class NewEmail:
    """An email as it is asked for."""

    id: UUID
    recipient: str
    recipient_name: str
    sender: str
    sender_name: str
    subject: str
    content_storage_key: str
    campaign_id: UUID | None
    step_id: UUID | None
    lead_id: UUID | None
    email_account_id: UUID | None
    priority: str
    send_at: datetime | None

    @cached_property
    def message_id(self) -> str:
        """RFC 5322 Message-ID: the email's id at its sender's domain, so that every attempt carries the same."""
        return f"<{self.id}@{self.sender.rpartition('@')[2].lower()}>"


def email_of(message_id: str) -> UUID | None:
    """The id of the email that a Message-ID would be of, were it one of ours."""
    found = _MESSAGE_ID.match(message_id)
    return UUID(found[1]) if found else None


@dataclass(frozen=True)
class CreatedEmail:
    """What a create answers, and answers again to every repeat."""

    id: UUID
    message_id: str
    content_storage_key: str
    status: str = QUEUED


@dataclass(frozen=True)
class Tally:
    """Events of one kind on one email."""

    kind: str
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True)
class Attempt:
    """One try at handing an email over."""

    attempt: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    smtp_code: int
    enhanced_status: str


@dataclass(frozen=True)
class Email:
    """One row of the ledger."""

    id: UUID
    tenant_id: UUID
    recipient: str
    recipient_name: str
    sender: str
    sender_name: str
    subject: str
    status: str
    priority: str
    content_storage_key: str
    content_generation: int
    campaign_id: UUID | None
    step_id: UUID | None
    lead_id: UUID | None
    email_account_id: UUID | None
    message_id: str
    attempt: int
    version: int
    send_at: datetime | None
    queued_at: datetime
    sending_at: datetime | None
    sent_at: datetime | None
    finished_at: datetime | None
    tallies: tuple[Tally, ...] = ()
    attempts: tuple[Attempt, ...] = ()


# More attempts at an email than these are not lost when a database is put back: nobody makes as many in a backup's age.
LOST_MAX = 100


@dataclass(frozen=True)
class Claim:
    """A worker asks to send an email. `lease_lost_before`: another held its job until its lease ran out, and may have begun."""

    email_id: UUID
    lease_lost_before: bool = False


@dataclass(frozen=True)
class Started:
    """The answer to a claim for sending: what the worker is to do, and the email as it stands after it."""

    decision: str
    email: Email


@dataclass(frozen=True)
class Requeued:
    """Emails that are owed a job once more, and those that are held instead."""

    emails: tuple[UUID, ...]
    held: tuple[UUID, ...]


@dataclass(frozen=True)
class Outcome:
    """What a worker says became of attempt `attempt`; `final`: no further attempt will be made."""

    email_id: UUID
    attempt: int
    outcome: str
    smtp_code: int
    enhanced_status: str
    finished_at: datetime
    final: bool


def claimable(claim_by: datetime, at: datetime) -> None:
    """Raise FailedPrecondition (CONTENT_CLAIM_EXPIRED) once contents can no longer be claimed by who refers to them."""
    if at >= claim_by:
        raise FailedPrecondition(
            "The content's claim_by has passed.", reason="CONTENT_CLAIM_EXPIRED", field="content_claim_by"
        )


def sendable(send_at: datetime | None) -> None:
    """Raise InvalidArgument for a moment at which no email can be sent any more."""
    if send_at is not None and send_at >= LATEST:
        raise InvalidArgument(f"send_at is not before the year {LATEST.year}.", field="send_at")


def _over(email: Email, status: str, at: datetime, *, doubtful: bool) -> Email:
    """The email at an end that says that it never came; where an earlier attempt may have delivered it, that is not known."""
    if doubtful:
        return replace(email, status=OUTCOME_UNKNOWN, version=email.version + 1)
    return replace(email, status=status, finished_at=at, version=email.version + 1)


def cancel(email: Email, at: datetime, *, doubtful: bool) -> Email:
    """A queued email, taken back. `doubtful`: an attempt at it has an unknown outcome."""
    return _over(email, CANCELLED, at, doubtful=doubtful)


def start(
    email: Email, *, at: datetime, suppressed: bool, policy: str, cancelled: bool = False, doubtful: bool = False
) -> Started:
    """Decide on a claim. SEND moves the email to sending under a new attempt number.

    `suppressed`: the recipient must not be written to. `cancelled`: the email's campaign was, or its tenant is closed, and
    this one with it. `doubtful`: an attempt at it has an unknown outcome.
    An email found in sending belongs to a worker that went silent: its outcome is unknown, and only a tenant who chose
    so has it sent again, to nobody who must not be written to by now (the email itself may be why), and while it is wanted.
    """
    if email.status in FINAL:
        return Started("done", email)
    if email.status == OUTCOME_UNKNOWN:
        return Started("held", email)
    if email.status == SENDING and (suppressed or cancelled or policy != RESEND):
        return Started("held", replace(email, status=OUTCOME_UNKNOWN, version=email.version + 1))
    unsent = "held" if doubtful else "done"
    if cancelled and email.status == QUEUED:
        return Started(unsent, cancel(email, at, doubtful=doubtful))
    if email.send_at is not None and email.send_at > at:
        return Started("early", email)
    if suppressed and email.status == QUEUED:
        return Started(unsent, _over(email, SUPPRESSED, at, doubtful=doubtful))
    claimed = replace(email, status=SENDING, attempt=email.attempt + 1, sending_at=at, version=email.version + 1)
    return Started("send", claimed)


def conclude(email: Email, outcome: Outcome, *, doubtful: bool = False) -> Email:
    """The email after an attempt's outcome; raises FailedPrecondition for an attempt that never began. `doubtful`: an attempt
    before this one has an unknown outcome.

    A late word on an attempt that was given up as unknown settles it. One on an attempt that another has followed changes
    the attempt only, but for the proof that it was sent: it is not to be sent once more.
    """
    if outcome.attempt > email.attempt:
        raise FailedPrecondition("No such attempt was started.", reason="ATTEMPT_CONFLICT", field="attempt")
    followed = outcome.attempt < email.attempt
    proven = followed and outcome.outcome == "sent" and email.status not in FINAL
    if not proven and (followed or email.status not in {SENDING, OUTCOME_UNKNOWN}):
        return email
    version = email.version + 1
    if outcome.outcome == "sent":
        return replace(
            email, status=SENT, sent_at=outcome.finished_at, finished_at=outcome.finished_at, version=version
        )
    if outcome.outcome == "unknown":
        return replace(email, status=OUTCOME_UNKNOWN, version=version)
    if outcome.outcome == "rejected" or outcome.final:
        return _over(email, FAILED, outcome.finished_at, doubtful=doubtful)
    return replace(email, status=QUEUED, sending_at=None, version=version)


def forgettable(email: Email, put_back_at: datetime) -> bool:
    """Whether a further attempt may have been begun in what was lost when the database was put back."""
    if email.status == SENDING:
        return email.sending_at is not None and email.sending_at < put_back_at
    return email.status == QUEUED and max(email.queued_at, email.send_at or email.queued_at) < put_back_at


def remembered(email: Email, attempt: int, at: datetime) -> Email:
    """An email as it may have been before the database was put back: in sending, under an attempt that was begun in what was lost.
    `at`: the best that is known of when."""
    return replace(email, status=SENDING, attempt=attempt, sending_at=at)


def lost(email: Email, told: Outcome, put_back_at: datetime) -> bool:
    """Whether what is told is of an attempt that was begun in what was lost. Its worker has outlived that, and is believed."""
    return email.attempt < told.attempt <= email.attempt + LOST_MAX and forgettable(email, put_back_at)


def requeue(email: Email, *, at: datetime, put_back_at: datetime) -> Email | None:
    """What becomes of an email that has lost its job: queued, another is to be owed; or it is held, for somebody to decide. None
    where it needs none. `put_back_at`: when this database began, or was put back to what it had been before.

    Held is what has long been in sending, whatever its tenant chose: Queue may have given its job up, after one worker
    after the other was lost with it. And what was due before the database was put back: it may have been sent in what was lost.
    """
    if email.status == QUEUED and not forgettable(email, put_back_at):
        return email
    silent = email.status == SENDING and email.sending_at is not None and email.sending_at < at - SILENT
    if email.status == QUEUED or silent:
        return replace(email, status=OUTCOME_UNKNOWN, version=email.version + 1)
    return None


def settle(email: Email, settlement: str, at: datetime) -> Email:
    """The email after a decision on its unknown outcome; raises FailedPrecondition where it is not unknown."""
    if email.status != OUTCOME_UNKNOWN:
        raise FailedPrecondition(
            "Only an email whose outcome is unknown can be settled.",
            metadata={"resource": "email", "state": email.status},
        )
    version = email.version + 1
    if settlement == "sent":
        return replace(email, status=SENT, sent_at=email.sending_at or at, finished_at=at, version=version)
    if settlement == "failed":
        return replace(email, status=FAILED, finished_at=at, version=version)
    return replace(email, status=QUEUED, sending_at=None, version=version)


def marks(before: Email, after: Email) -> tuple[dict[str, datetime], frozenset[str]]:
    """What a transition adds to the ledger's own tallies (kind -> when), and which it takes back."""
    if before.status == after.status:
        return {}, frozenset()
    added: dict[str, datetime] = {}
    if after.status == SENT and after.sent_at is not None:
        added["sent"] = after.sent_at
    elif after.status == FAILED and after.finished_at is not None:
        added["failed"] = after.finished_at
    elif after.status == OUTCOME_UNKNOWN:
        added["outcome_unknown"] = after.sending_at or after.queued_at
    taken = frozenset({"outcome_unknown"}) if before.status == OUTCOME_UNKNOWN else frozenset()
    return added, taken


Created = CreatedEmail | Fault
