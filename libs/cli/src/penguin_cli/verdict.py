"""Draws one conclusion from what the tiers know of an email. It asks nobody."""

from __future__ import annotations

from datetime import UTC, datetime

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin_cli.knowledge import Away, Known, NotAsked, at, word


def verdict(known: Known, now: datetime | None = None) -> tuple[str, bool]:
    """One sentence, and whether all is well or on its way."""
    email = known.email
    if isinstance(email, Away):
        return f"OLTP is away ({email.why}): where the email stands is not known until it is back.", False
    if email is None:
        return "OLTP knows no such email of this tenant: it was never accepted, or it is another tenant's.", False
    if known.spooled is not None and len(known.spooled) > 1:
        return f"received {len(known.spooled)} times: a double delivery, which must not be.", False
    if known.content is None and email.status != email_pb.EMAIL_STATUS_SENT:
        return "content missing: nothing is stored under the email's key, so it cannot be sent.", False
    return _by_status(known, email, now or datetime.now(UTC))


def _by_status(known: Known, email: email_pb.Email, now: datetime) -> tuple[str, bool]:
    match email.status:
        case email_pb.EMAIL_STATUS_SENT:
            return _sent(known, email)
        case email_pb.EMAIL_STATUS_SENDING:
            return f"being sent: attempt {email.attempt} began at {at(email.sending_at)}.", True
        case email_pb.EMAIL_STATUS_QUEUED:
            return _queued(known, email, now)
        case email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN:
            silent = f"a worker went silent in attempt {email.attempt}"
            since = at(email.sending_at)
            return f"held: outcome unknown since {since}: {silent}; evidence, or a person, settles it.", False
        case email_pb.EMAIL_STATUS_FAILED:
            return f"failed at {at(email.finished_at)} after {email.attempt} attempts{_last_words(email)}.", False
        case email_pb.EMAIL_STATUS_SUPPRESSED:
            return "suppressed: the recipient is on the tenant's suppression list.", False
        case _:
            return f"{word(email_pb.EmailStatus, email.status)} at {at(email.finished_at)}.", False


def _last_words(email: email_pb.Email) -> str:
    if not email.attempts or not email.attempts[-1].smtp_code:
        return ""
    last = email.attempts[-1]
    return f", the last answered {last.smtp_code} {last.enhanced_status}".rstrip()


def _sent(known: Known, email: email_pb.Email) -> tuple[str, bool]:
    said = f"sent at {at(email.sent_at)} in attempt {email.attempt}"
    if known.content is None:
        return f"{said}, but its content is missing now.", False
    bounced = any(tally.kind == email_pb.EMAIL_EVENT_KIND_BOUNCED and tally.count for tally in email.tallies)
    if bounced:
        return f"{said}, and bounced afterwards.", False
    if (
        isinstance(known.content, content_pb.ContentMetadata)
        and known.content.state != content_pb.CONTENT_STATE_CLAIMED
    ):
        return f"{said}; its content still waits for its claim.", False
    return f"{said}.", True


def _queued(known: Known, email: email_pb.Email, now: datetime) -> tuple[str, bool]:
    job = known.job
    if isinstance(job, Away):
        return (
            f"queued since {at(email.queued_at)}; Queue is away ({job.why}), and it is sent once that is back.",
            False,
        )
    if job is None:
        return _without_job(known, email)
    if job.state == queue_pb.JOB_STATE_DEAD:
        return f"its job is a dead letter ({job.last_error or 'no reason given'}): it waits to be redriven.", False
    if job.state == queue_pb.JOB_STATE_DISCARDED:
        return f"its job was given up ({job.last_error or 'no reason given'}): it will not be sent by itself.", False
    if job.state == queue_pb.JOB_STATE_CANCELLED:
        return "its job was cancelled: it will not be sent by itself.", False
    if email.HasField("send_at") and email.send_at.ToDatetime(UTC) > now:
        return f"waits for its time, {at(email.send_at)}.", True
    if isinstance(known.content, Away | NotAsked):
        return f"queued since {at(email.queued_at)}; Content is away, and it is sent once that is back.", False
    if job.state == queue_pb.JOB_STATE_READY:
        if job.run_at.ToDatetime(UTC) > now:
            why = f" after {job.last_error}" if job.last_error else ""
            return f"waits in Queue to be tried again at {at(job.run_at)}{why}.", True
        return f"waits in Queue for a worker since {at(job.run_at)}.", True
    return f"a worker has its job, until {at(job.leased_until)} at the latest.", True


def _without_job(known: Known, email: email_pb.Email) -> tuple[str, bool]:
    outbox = known.outbox
    if isinstance(outbox, Away) or not outbox.HasField("outbox_depth") or outbox.outbox_depth:
        return f"waits in OLTP's outbox since {at(email.queued_at)}: the relay has not brought it to Queue yet.", True
    return (
        f"queued since {at(email.queued_at)}, yet OLTP owes nothing and Queue has no job for it: it will not be sent by itself.",
        False,
    )
