"""Runs "email.send": reads, claims, hands over, records, and only then is the job done.

Everything that may be missing is fetched before the claim, so that an outage burns no attempt and holds no email. After
the claim an email is either handed over once and recorded, or left for its successor to find unknown.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_worker.bodies import Bodies
from penguin_worker.headers import UnsendableError
from penguin_worker.jobs import Away, Job, NotDone, Reject, Release, Retry, Snooze
from penguin_worker.ledger import LeaseLost, Ledger, RefusedError, reason_of
from penguin_worker.mime import Letter, build, check
from penguin_worker.smtp import Handover, Outcome, ServerAwayError, SmtpPool

T = TypeVar("T")
_tracer = trace.get_tracer("penguin.worker")

# Emails claimed together, and how many such claims are on their way to SMTP at once: what a crash may leave unknown.
CLAIM = 16
CLAIMS = 3
AGAIN_S = 1.0
MAX_EARLY_S = 7 * 24 * 3600.0
# No worker leaves these any more, or only a person does.
AT_REST = frozenset(
    {
        pb.EMAIL_STATUS_SENT,
        pb.EMAIL_STATUS_FAILED,
        pb.EMAIL_STATUS_SUPPRESSED,
        pb.EMAIL_STATUS_CANCELLED,
        pb.EMAIL_STATUS_OUTCOME_UNKNOWN,
    }
)


@dataclass(frozen=True)
class _Task:
    """A job with the email it asks for, ready to be claimed: its letter, or why there can never be one."""

    job: Job
    email_id: str
    letter: Letter | None
    fault: str = ""


class EmailSending:
    """The handler of "email.send". `stopping` says that what has not begun is to be put back."""

    def __init__(
        self, bodies: Bodies, ledger: Ledger, smtp: SmtpPool, stopping: Callable[[], bool], unsubscribe_url: str = ""
    ) -> None:
        self._bodies = bodies
        self._ledger = ledger
        self._smtp = smtp
        self._stopping = stopping
        self._unsubscribe_url = unsubscribe_url
        self._claims = asyncio.Semaphore(CLAIMS)

    async def handle(self, jobs: Sequence[Job]) -> None:
        """Send the emails of one tenant; raises what holds for all that are not settled."""
        parent, links = jobs[0].origin()
        for job in jobs[1:]:
            context, more = job.origin()
            links += more or [trace.Link(trace.get_current_span(context).get_span_context())] if job.traceparent else []
        with _tracer.start_as_current_span(
            "send emails", context=parent, links=links, kind=SpanKind.CONSUMER, record_exception=False
        ) as span:
            span.set_attribute("penguin.tenant_id", str(jobs[0].tenant_id))
            span.set_attribute("penguin.jobs", len(jobs))
            tasks = await self._prepare(jobs[0].tenant_id, jobs)
            if not tasks:
                return
            try:
                await self._smtp.ready()
            except ServerAwayError:
                raise Away("smtp.unreachable") from None
            chunks = [tasks[i : i + CLAIM] for i in range(0, len(tasks), CLAIM)]
            await _all(self._claim_and_send(chunk) for chunk in chunks)

    async def _prepare(self, tenant_id: UUID, jobs: Sequence[Job]) -> list[_Task]:
        """Read all that sending needs; settles the jobs that end here."""
        wanted = _by_email(jobs)
        if (span := trace.get_current_span()).is_recording():
            # Found by each of them, and told apart from the other batches of a trace.
            span.set_attribute("penguin.email_id", [str(email_id) for email_id in wanted])
        emails = await self._ledger.read(tenant_id, list(wanted)) if wanted else {}
        open_emails: dict[UUID, pb.Email] = {}
        for email_id, job in wanted.items():
            email = emails.get(email_id)
            if email is None:
                job.settle(Reject("email_missing"))
            elif email.status in AT_REST:
                job.settle()
            else:
                open_emails[email_id] = email
        contents = await self._bodies.get(tenant_id, [e.content_storage_key for e in open_emails.values()])
        prepared = await _all(
            self._ready(wanted[i], e, contents.get(e.content_storage_key)) for i, e in open_emails.items()
        )
        return [task for task in prepared if task is not None]

    async def _ready(self, job: Job, email: pb.Email, content: content_pb.Content | None) -> _Task | None:
        if content is None:
            return _Task(job, email.id, None, "content_missing")
        try:
            letter = Letter(
                email_id=email.id,
                tenant_id=email.tenant_id,
                message_id=email.message_id,
                sender=email.sender,
                recipient=email.recipient,
                subject=email.subject,
                sender_name=email.sender_name,
                recipient_name=email.recipient_name,
                text=content.text,
                html=content.html,
                headers=tuple((header.name, header.value) for header in content.headers),
                attachments=await self._bodies.attachments(job.tenant_id, content),
            )
            check(letter)
        except UnsendableError as error:
            return _Task(job, email.id, None, f"unsendable.{error}")
        except NotDone as error:
            job.settle(error)
            return None
        return _Task(job, email.id, letter)

    async def _claim_and_send(self, tasks: Sequence[_Task]) -> None:
        async with self._claims:
            for task in tasks:
                if self._stopping() or not task.job.held:
                    task.job.settle(Release("not_begun"))
            tasks = [task for task in tasks if not task.job.settled]
            if not tasks:
                return
            # From here on nobody else may be told that nothing has happened.
            for task in tasks:
                task.job.committed = True
            try:
                results = await self._ledger.claim(
                    tasks[0].job.tenant_id, [(task.job, UUID(task.email_id)) for task in tasks]
                )
            except LeaseLost:
                for task in tasks:
                    task.job.settle(Snooze("lease_lost", 0))
                return
            await _all(self._decide(*pair) for pair in zip(tasks, results, strict=True))

    async def _decide(self, task: _Task, result: pb.StartAttemptResult) -> None:
        job = task.job
        if result.WhichOneof("outcome") == "error":
            job.settle(Reject(f"claim.{reason_of(result.error)}"))
            return
        started = result.started
        if started.decision == pb.ATTEMPT_DECISION_SEND:
            await self._send(task, started.email)
        elif started.decision == pb.ATTEMPT_DECISION_EARLY:
            wait = (started.email.send_at.ToDatetime(UTC) - datetime.now(UTC)).total_seconds()
            job.settle(Snooze("early", min(max(wait, 0.05), MAX_EARLY_S)))
        else:
            # Done, or held in the ledger for evidence or a person: no worker has anything left to do.
            job.settle()

    async def _send(self, task: _Task, email: pb.Email) -> None:
        job, letter = task.job, task.letter
        if letter is None:
            # Claimed only to be given up: an email left queued for good would keep its campaign open for good.
            await self._record(job, email, Handover(Outcome.REJECTED), Reject(task.fault))
            return
        parent, links = job.origin()
        with _tracer.start_as_current_span(
            "send email", context=parent, links=links, kind=SpanKind.CONSUMER, record_exception=False
        ) as span:
            span.set_attribute("penguin.email_id", email.id)
            span.set_attribute("penguin.tenant_id", email.tenant_id)
            span.set_attribute("penguin.attempt", email.attempt)
            handover = await self._smtp.hand_over(
                letter.sender,
                letter.recipient,
                lambda: build(letter, datetime.now(UTC), self._unsubscribe_url),
                lambda: job.held and not self._stopping(),
            )
            if handover is None:
                handover = Handover(Outcome.DEFERRED, away=True)
            span.set_attribute("smtp.code", handover.code)
            span.set_attribute("penguin.outcome", handover.outcome.value)
            if handover.outcome is not Outcome.SENT:
                span.set_status(StatusCode.ERROR, handover.outcome.value)
            await self._record(job, email, handover, self._verdict(job, handover))

    async def _record(self, job: Job, email: pb.Email, handover: Handover, verdict: NotDone | None) -> None:
        """Store what became of the attempt, and only then settle its job; one that nobody would come back to stays."""
        ends = verdict is None or isinstance(verdict, Reject)
        try:
            status = await self._ledger.record(job, email, handover, final=isinstance(verdict, Reject))
            if ends and status not in AT_REST:
                # A claim under an earlier lease came late and counts as another attempt, with nobody behind it.
                verdict = Snooze("overtaken", AGAIN_S * random.uniform(0.75, 1.25))
        except LeaseLost:
            verdict = Snooze("lease_lost", 0)
        except RefusedError as error:
            verdict = Reject(f"record.{error}")
        job.settle(verdict)

    def _verdict(self, job: Job, handover: Handover) -> NotDone | None:
        """A refusal for good, or an unknown outcome, is the ledger's to tell; the job has done its work."""
        if handover.outcome is not Outcome.DEFERRED:
            return None
        if self._stopping() and handover.away:
            return Snooze("worker_stopping", 0)
        if handover.away:
            return Away("smtp.unreachable")
        return Reject(f"smtp.{handover.code}") if job.last_attempt else Retry(f"smtp.{handover.code}")


async def _all(acts: Iterable[Awaitable[T]]) -> list[T]:
    """Every act to its end, and only then the first of their errors: none goes on behind the back of its job."""
    results = await asyncio.gather(*acts, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _by_email(jobs: Sequence[Job]) -> dict[UUID, Job]:
    """One job for each email; a second one waits for the first, and one without an email ends here."""
    wanted: dict[UUID, Job] = {}
    for job in jobs:
        try:
            email_id = job.uuid("email_id")
        except Reject as error:
            job.settle(error)
            continue
        if email_id in wanted:
            job.settle(Snooze("same_email_in_hand", AGAIN_S * random.uniform(0.75, 1.25)))
        else:
            wanted[email_id] = job
    return wanted
