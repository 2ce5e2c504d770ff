"""Compares the emails that wait to be sent, or for a worker's word, with the jobs that are to send them, one tenant at a time.

Both change while one looks: only what is old counts, an email that lacks its job is looked for twice, and whatever is found
is asked for by its id once more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import reconcile_service_pb2 as reconcile_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.reconcile_service_pb2_grpc import ReconcileServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling.reading import SlowError, ask, in_portions, unchanged

# The part of a run that this is.
PART = "jobs"
KIND = "email.send"
# What is younger may be on its way.
AGE = timedelta(hours=1)
# What OLTP has owed Queue for so long does not go by itself: until somebody sees to it nothing can be said of this tenant.
OVERDUE = timedelta(days=1)
# Emails and jobs that are looked at in one run, of one tenant: a great backlog is told in bounded time and memory. Of more emails
# these are compared all the same; of more jobs nothing can be said.
EMAILS, JOBS = 100_000, 1_000_000
PAGE = 500
TIMEOUT_S = 25.0
# In the order that a job goes through them, so that one that moves on is met again.
LIVE = (queue_pb.JOB_STATE_HELD, queue_pb.JOB_STATE_READY, queue_pb.JOB_STATE_LEASED)
# An email in one of these needs a job, one in sending for whoever comes after its worker. Those are few, and looked for first: a
# great backlog hides none of them.
WAITING = (email_pb.EMAIL_STATUS_SENDING, email_pb.EMAIL_STATUS_QUEUED)
# An email in one of these needs no job. (One that was cancelled keeps its job until that is due, and sends nothing.)
OVER = frozenset({email_pb.EMAIL_STATUS_SENT, email_pb.EMAIL_STATUS_FAILED})


@dataclass
class JobsDifference:
    """Emails that wait, or are left in sending, and have no job, and jobs (by number) whose email is gone or over."""

    waiting: int = 0
    jobs: int = 0
    lacking: list[str] = field(default_factory=list)
    needless: list[int] = field(default_factory=list)
    # Nothing could be said, or only of a part.
    cut: bool = False
    # As there are more than one run looks through: it will be so the next time.
    too_many: bool = False
    # OLTP has owed Queue something of the tenant's for so long that somebody has to be told.
    overdue: bool = False


@dataclass(frozen=True)
class _Job:
    """A job by its number, whether it is old, and its email; none where it names none."""

    id: int
    old: bool
    email_id: str


class JobsComparison:
    """Compares one tenant's waiting emails with its jobs. Every method raises RefusedError."""

    def __init__(self, tiers: Mapping[str, Tier], tenant_id: UUID, now: datetime) -> None:
        self._oltp, self._queue = tiers["oltp"], tiers["queue"]
        self._tenant_id = str(tenant_id)
        self._before = now - AGE

    async def run(self) -> JobsDifference:
        """Compare; nothing is said while OLTP itself owes Queue jobs of this tenant that are as old."""
        owed_for = await self._owed_for()
        if owed_for is None or owed_for > AGE / 2:
            return JobsDifference(cut=True, overdue=owed_for is not None and owed_for > OVERDUE)
        found = JobsDifference()
        lacking = await self._old_emails(found)
        async for jobs in self._jobs(found, lacking):
            found.needless += await self._needless([job for job in jobs if job.old])
        found.needless.sort()
        if lacking:
            async for _ in self._jobs(JobsDifference(), lacking):
                pass
        found.lacking = sorted(
            id_ for id_, email in (await self._emails(sorted(lacking))).items() if self._waits(email)
        )
        return found

    async def requeue(self, run_id: str, email_ids: Sequence[str]) -> dict[str, str]:
        """Have OLTP owe the jobs once more; returns what was done of which: "requeued", or "held" where that might be to send it
        again. Raises LeftOutError too."""
        done: dict[str, str] = {}
        for portion in in_portions(email_ids, PAGE):
            request = email_pb.RequeueEmailsRequest(
                tenant_id=self._tenant_id, request_id=str(keys.request_id("requeue", run_id, *portion)),
                email_ids=portion,
            )  # fmt: skip
            method = self._oltp.stub(EmailServiceStub).RequeueEmails
            try:
                reply = await self._oltp.insist(method, request, deadline_s=TIMEOUT_S)
            except TierError as error:
                raise unchanged(error) from None
            done |= dict.fromkeys(reply.requeued_ids, "requeued") | dict.fromkeys(reply.held_ids, "held")
        return done

    async def _owed_for(self) -> timedelta | None:
        """How long OLTP has owed Queue the oldest of what it owes it of this tenant; None where it does not say."""
        request = reconcile_pb.GetReconcileProgressRequest(tenant_id=self._tenant_id, part=PART)
        reply = await _ask(self._oltp, self._oltp.stub(ReconcileServiceStub).GetReconcileProgress, request)
        if not reply.HasField("owed"):
            return None
        ages = reply.owed.oldest_age
        return ages["queue"].ToTimedelta() if "queue" in ages else timedelta()

    async def _old_emails(self, found: JobsDifference) -> set[str]:
        old: set[str] = set()
        method = self._oltp.stub(EmailServiceStub).ListEmails
        for status in WAITING:
            request = email_pb.ListEmailsRequest(tenant_id=self._tenant_id, status=status, page_size=PAGE)
            try:
                async for page in _pages(self._oltp, method, request, "emails"):
                    old.update(email.id for email in page if self._waits(email))
                    if len(old) >= EMAILS:
                        found.cut = found.too_many = True
                        break
            except SlowError:
                # The few that wait are sought among all that were ever sent: of a very great ledger that is not told in time.
                found.cut = found.too_many = True
        found.waiting = len(old)
        return old

    async def _jobs(self, found: JobsDifference, lacking: set[str]) -> AsyncIterator[list[_Job]]:
        """The tenant's jobs, page by page; their emails are taken out of `lacking`. Without any only old jobs are told."""
        stub = self._queue.stub(QueueServiceStub)
        for state in LIVE:
            request = queue_pb.ListJobsRequest(tenant_id=self._tenant_id, state=state, kind=KIND, page_size=PAGE)
            async for page in _pages(self._queue, stub.ListJobs, request, "jobs"):
                if found.jobs >= JOBS:
                    found.cut = found.too_many = True
                    lacking.clear()  # what was not seen cannot be said to be missing
                    return
                found.jobs += len(page)
                # A young one may be that of an old email, which was requeued.
                ages = {job.id: old for job in page if (old := self._old(job.created_at)) or lacking}
                jobs = [_Job(id_, ages[id_], _email_of(payload)) for id_, payload in await self._payloads(list(ages))]
                lacking.difference_update(job.email_id for job in jobs)
                yield jobs

    async def _needless(self, jobs: Sequence[_Job]) -> list[int]:
        """Those of these whose emails are gone or over; or that name none, as anybody may enqueue what he likes."""
        emails = await self._emails(sorted({job.email_id for job in jobs if job.email_id}))
        return [job.id for job in jobs if self._over(emails.get(job.email_id))]

    async def _payloads(self, numbers: Sequence[int]) -> list[tuple[int, bytes]]:
        told: list[tuple[int, bytes]] = []
        wanted = list(numbers)
        while wanted:
            request = queue_pb.GetJobPayloadsRequest(tenant_id=self._tenant_id, job_ids=wanted[:PAGE])
            reply = await _ask(self._queue, self._queue.stub(QueueServiceStub).GetJobPayloads, request)
            told += [(each.job_id, each.payload) for each in reply.payloads]
            wanted = [*reply.deferred_ids, *wanted[PAGE:]]
        return told

    async def _emails(self, ids: Sequence[str]) -> dict[str, Any]:
        """The emails of these ids that there are."""
        found: dict[str, Any] = {}
        for portion in in_portions(ids, PAGE):
            request = email_pb.BatchGetEmailsRequest(tenant_id=self._tenant_id, email_ids=portion)
            reply = await _ask(self._oltp, self._oltp.stub(EmailServiceStub).BatchGetEmails, request)
            found |= {email.id: email for email in reply.emails}
        return found

    def _waits(self, email: Any) -> bool:
        """For so long that it should have its job: since it was due, or since a worker began it."""
        if email.status == email_pb.EMAIL_STATUS_SENDING:
            return self._old(email.sending_at)
        due = not email.HasField("send_at") or self._old(email.send_at)
        return email.status == email_pb.EMAIL_STATUS_QUEUED and due and self._old(email.queued_at)

    def _over(self, email: Any) -> bool:
        """Gone, or done with for so long that its job should be over as well."""
        if email is None:
            return True
        return email.status in OVER and email.HasField("finished_at") and self._old(email.finished_at)

    def _old(self, stamp: Timestamp) -> bool:
        return stamp.ToDatetime(UTC) < self._before


def _email_of(payload: bytes) -> str:
    """The id of the email that a job is to send; none where it is none."""
    try:
        return str(UUID(orjson.loads(payload)["email_id"]))
    except (KeyError, ValueError, TypeError, AttributeError):
        return ""


async def _pages(tier: Tier, method: Any, request: Any, items: str) -> AsyncIterator[Sequence[Any]]:
    while True:
        reply = await _ask(tier, method, request)
        yield getattr(reply, items)
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token


async def _ask(tier: Tier, method: Any, request: Any) -> Any:
    return await ask(tier, method, request, TIMEOUT_S)
