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

import grpc
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
from penguin_orchestrator.reconciling.reading import UncomparedError, in_portions, refusal, unchanged

# The part of a run that this is.
PART = "jobs"
KIND = "email.send"
# What is younger may be on its way.
AGE = timedelta(hours=1)
# What OLTP has owed Queue for so long does not go by itself: until somebody sees to it nothing can be said of this tenant.
OVERDUE = timedelta(days=1)
# Emails and jobs that are looked at in one run, of one tenant: a great backlog is told in bounded time and memory.
EMAILS, JOBS = 10_000, 100_000
PAGE = 500
TIMEOUT_S = 25.0
# In the order that a job goes through them, so that one that moves on is met again.
LIVE = (queue_pb.JOB_STATE_HELD, queue_pb.JOB_STATE_READY, queue_pb.JOB_STATE_LEASED)
# An email in one of these needs a job, one in sending for whoever comes after its worker. Those are few, and looked for first: a
# great backlog hides none of them.
WAITING = (email_pb.EMAIL_STATUS_SENDING, email_pb.EMAIL_STATUS_QUEUED)
# An email in one of these needs no job. (One that was cancelled keeps its job until that is due, and sends nothing.)
OVER = frozenset({email_pb.EMAIL_STATUS_SENT, email_pb.EMAIL_STATUS_FAILED})


class SlowError(UncomparedError):
    """A tier did not answer in time."""


@dataclass
class JobsDifference:
    """Emails that wait, or are left in sending, and have no job, and jobs (by number) whose email is gone or over."""

    waiting: int = 0
    jobs: int = 0
    lacking: list[str] = field(default_factory=list)
    needless: list[int] = field(default_factory=list)
    # Why nothing could be said, or only a part.
    cut: bool = False
    # OLTP has owed Queue something of the tenant's for so long that somebody has to be told.
    overdue: bool = False


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
        by_email = await self._old_jobs(found, lacking)
        if lacking:
            await self._old_jobs(JobsDifference(), lacking)
        found.lacking = sorted(
            id_ for id_, email in (await self._emails(sorted(lacking))).items() if self._waits(email)
        )
        emails = await self._emails(sorted(by_email))
        found.needless = sorted(
            job_id for id_, jobs in by_email.items() if self._over(emails.get(id_)) for job_id in jobs
        )
        return found

    async def requeue(self, run_id: str, email_ids: Sequence[str]) -> int:
        """Have OLTP owe the jobs once more; returns for how many. Raises LeftOutError too."""
        count = 0
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
            count += len(reply.requeued_ids)
        return count

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
                async for email in _paged(self._oltp, method, request, "emails"):
                    if self._waits(email):
                        old.add(email.id)
                    if len(old) >= EMAILS:
                        found.cut = True
                        break
            except SlowError:
                # The few that wait are sought among all that were ever sent: of a very great ledger that is not told in time.
                found.cut = True
        found.waiting = len(old)
        return old

    async def _old_jobs(self, found: JobsDifference, lacking: set[str]) -> dict[str, list[int]]:
        """The tenant's old jobs by their emails; the emails of any job are taken out of `lacking`."""
        by_email: dict[str, list[int]] = {}
        stub = self._queue.stub(QueueServiceStub)
        for state in LIVE:
            request = queue_pb.ListJobsRequest(tenant_id=self._tenant_id, state=state, kind=KIND, page_size=PAGE)
            # By their numbers, whether they are old. A young one may be that of an old email, which was requeued.
            numbers: dict[int, bool] = {}
            async for job in _paged(self._queue, stub.ListJobs, request, "jobs"):
                found.jobs += 1
                if (old := self._old(job.created_at)) or lacking:
                    numbers[job.id] = old
                if found.jobs >= JOBS:
                    found.cut = True
                    break
            for job_id, payload in await self._payloads(list(numbers)):
                email_id = str(orjson.loads(payload).get("email_id", ""))
                lacking.discard(email_id)
                if numbers[job_id]:
                    by_email.setdefault(email_id, []).append(job_id)
            if found.cut:
                lacking.clear()  # what was not seen cannot be said to be missing
                break
        return by_email

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


async def _paged(tier: Tier, method: Any, request: Any, items: str) -> AsyncIterator[Any]:
    while True:
        reply = await _ask(tier, method, request)
        for item in getattr(reply, items):
            yield item
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token


async def _ask(tier: Tier, method: Any, request: Any) -> Any:
    try:
        return await tier.call(method, request, timeout=TIMEOUT_S)
    except TierError as error:
        if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise SlowError(str(refusal(error))) from None
        raise refusal(error) from None
