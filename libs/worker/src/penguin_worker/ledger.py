"""Speaks with OLTP's email ledger: what is to be sent, the claim before it, and the outcome after it.

A claim or an outcome whose answer is unknown is asked again until it is known: giving up would leave an email held that
was never sent, or unrecorded that was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_worker.batching import MicroBatch
from penguin_worker.jobs import Job
from penguin_worker.smtp import Handover, Outcome
from penguin_worker.standing import Standing

# How long one round of asking lasts (seconds); rounds go on while the lease is ours.
ROUND_S = 10.0
TENANTS = 1000
_OUTCOMES = {
    Outcome.SENT: pb.ATTEMPT_OUTCOME_SENT,
    Outcome.DEFERRED: pb.ATTEMPT_OUTCOME_DEFERRED,
    Outcome.REJECTED: pb.ATTEMPT_OUTCOME_REJECTED,
    Outcome.UNKNOWN: pb.ATTEMPT_OUTCOME_UNKNOWN,
}


class LeaseLost(Exception):
    """The lease ran out before it was certain that the ledger knows."""


class RefusedError(Exception):
    """The ledger refused for good; the text is its reason."""


@dataclass(eq=False)
class _Record:
    job: Job
    outcome: pb.RecordOutcome
    # The email's status after it.
    stored: asyncio.Future[pb.EmailStatus.ValueType] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, error: Exception) -> None:
        """Tell whoever still waits that it is not stored."""
        if not self.stored.done():
            self.stored.set_exception(error)


class Ledger:
    """The ledger of one OLTP tier."""

    def __init__(self, oltp: Tier) -> None:
        self._oltp = oltp
        self._standing = Standing("ledger")
        # One for each tenant that has something to record: a tenant that is slowed down slows no other.
        self._records: dict[UUID, MicroBatch[_Record]] = {}

    async def read(self, tenant_id: UUID, email_ids: Sequence[UUID]) -> dict[UUID, pb.Email]:
        """Emails by id; those that the tenant does not have are left out. Raises TierError."""
        request = pb.BatchGetEmailsRequest(tenant_id=str(tenant_id), email_ids=map(str, email_ids))
        reply = await self._oltp.call(self._oltp.stub(EmailServiceStub).BatchGetEmails, request)
        return {UUID(email.id): email for email in reply.emails}

    async def claim(self, tenant_id: UUID, claims: Sequence[tuple[Job, UUID]]) -> list[pb.StartAttemptResult]:
        """Claim emails for sending; answers in order. Raises TierError when refused, LeaseLost while unknown."""
        request = pb.BatchStartAttemptsRequest(
            tenant_id=str(tenant_id),
            attempts=[
                pb.StartAttempt(
                    request_id=str(keys.request_id("attempt", job.id, job.lease_token)),
                    email_id=str(email_id),
                    # What was begun and could not be told of kept its lease until that ran out.
                    lease_lost_before=job.lost_leases > 0,
                )
                for job, email_id in claims
            ],
        )
        method = self._oltp.stub(EmailServiceStub).BatchStartAttempts
        while any(job.held for job, _ in claims):
            try:
                reply = await self._oltp.insist(method, request, deadline_s=ROUND_S)
            except TierError as error:
                if not error.retryable:
                    raise
                self._standing.failed("claim", f"{error.tier}.{error.reason}")
                continue
            self._standing.answered("claim")
            return list(reply.results)
        raise LeaseLost

    async def record(
        self, job: Job, email: pb.Email, handover: Handover, *, final: bool = False
    ) -> pb.EmailStatus.ValueType:
        """Store what became of an attempt; returns the email's status once it is stored. Raises LeaseLost, RefusedError.

        A failure is no longer recorded once the lease is lost: a successor may have ended the job, and the email would
        wait for nobody.
        """
        outcome = pb.RecordOutcome(
            request_id=str(keys.request_id("outcome", email.id, email.attempt)),
            email_id=email.id,
            attempt=email.attempt,
            outcome=_OUTCOMES[handover.outcome],
            smtp_code=handover.code,
            enhanced_status=handover.enhanced,
            final=final,
        )
        outcome.finished_at.FromDatetime(datetime.now(UTC))
        record = _Record(job, outcome)
        batch = self._records.setdefault(job.tenant_id, MicroBatch(self._flush))
        batch.add(record)
        if len(self._records) > TENANTS:
            self._records = {tenant: batch for tenant, batch in self._records.items() if not batch.idle}
        return await record.stored

    def cancel(self) -> None:
        """Give up what is not stored yet: its successors will find it unknown."""
        for batch in self._records.values():
            batch.cancel()

    async def _flush(self, records: list[_Record]) -> None:
        try:
            await self._store(records[0].job.tenant_id, records)
        finally:
            for record in records:
                record.fail(LeaseLost())

    async def _store(self, tenant_id: UUID, records: list[_Record]) -> None:
        method = self._oltp.stub(EmailServiceStub).BatchRecordOutcomes
        while records := [record for record in records if _still_true(record)]:
            request = pb.BatchRecordOutcomesRequest(
                tenant_id=str(tenant_id), outcomes=[record.outcome for record in records]
            )
            try:
                reply = await self._oltp.insist(method, request, deadline_s=ROUND_S)
            except TierError as error:
                if not error.retryable:
                    _refuse(records, error.reason)
                    return
                self._standing.failed("record", f"{error.tier}.{error.reason}")
                continue
            self._standing.answered("record")
            for record, result in zip(records, reply.results, strict=True):
                if result.WhichOneof("outcome") == "error":
                    _refuse([record], reason_of(result.error))
                elif not record.stored.done():
                    record.stored.set_result(result.status)
            return


def reason_of(error: errors_pb2.ItemError) -> str:
    """An item's reason as a short word."""
    return errors_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_").lower()


def _still_true(record: _Record) -> bool:
    return record.outcome.outcome != pb.ATTEMPT_OUTCOME_DEFERRED or record.job.held


def _refuse(records: Sequence[_Record], reason: str) -> None:
    for record in records:
        record.fail(RefusedError(reason.lower()))
