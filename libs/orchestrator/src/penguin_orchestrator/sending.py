"""The main job: an email's body into Content, its row and what it owes into OLTP. The row's commit is the pivot.

Before the pivot a failure is undone (the key is deleted); an unknown answer at the pivot is only asked again, never undone;
after it everything goes forward through the outbox. Batches are first-class: a send is a batch of one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry import trace

from penguin.common.v1 import errors_pb2
from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import email_service_pb2 as oltp_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin_chassis.wire import uuid_of
from penguin_orchestrator import blobs, keys
from penguin_orchestrator.batches import Preparation, Prepared, against_contract, batches, split_blobs
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError, OutgoingEmail, Refusal, SendResult, Sent

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("penguin.orchestrator")

# How long contents wait for their claim; the relay claims within seconds, or after an outage of this length.
CLAIM_WITHIN = timedelta(hours=6)
DEADLINE_S = 30.0
# How long Content is asked before a send is given up with nothing done; a launch is more patient (seconds).
PUT_DEADLINE_S = 3.0
COMPENSATE_S = 5.0


class Sender:
    """Sends emails of any tenant through Content and OLTP."""

    def __init__(self, content: Tier, oltp: Tier) -> None:
        self._content = content
        self._oltp = oltp

    async def send_emails(
        self,
        tenant_id: UUID,
        emails: Sequence[OutgoingEmail],
        *,
        deadline_s: float = DEADLINE_S,
        put_deadline_s: float = PUT_DEADLINE_S,
    ) -> list[SendResult]:
        """Send many; answers in order, one by one. Returns once they are durable.

        Raises TierError when nothing was done (a tier was away for `put_deadline_s` seconds, or refused, and what had
        been stored is undone) and OutcomeUnknownError when OLTP gave none in `deadline_s`, or when a part
        stands already: the same call with its request_ids completes it. Both times are for each batch of up to 500.
        """
        request_ids = tuple(email.request_id or keys.new_id() for email in emails)
        preparation = Preparation()
        prepared = [preparation.prepare(*each) for each in zip(emails, request_ids, strict=True)]
        answers: dict[UUID, SendResult] = {}
        streamed: set[str] = set()
        with _tracer.start_as_current_span("send_emails", record_exception=False) as span:
            span.set_attribute("penguin.tenant_id", str(tenant_id))
            span.set_attribute("penguin.emails", len(emails))
            for batch in batches([each for each in prepared if isinstance(each, Prepared)]):
                try:
                    answers |= await self._send_sound(tenant_id, batch, streamed, deadline_s, put_deadline_s)
                except OutcomeUnknownError as error:
                    raise OutcomeUnknownError(request_ids, error.cause) from error.cause
                except TierError as error:
                    if not answers:
                        raise
                    raise OutcomeUnknownError(request_ids, error) from error
            if span.is_recording():  # each is found by its trace before any worker has it
                sent = [str(answer.email_id) for answer in answers.values() if isinstance(answer, Sent)]
                span.set_attribute("penguin.email_id", sent)
        return [answers[each.id] if isinstance(each, Prepared) else each for each in prepared]

    async def _send_sound(
        self, tenant_id: UUID, batch: list[Prepared], streamed: set[str], deadline_s: float, put_deadline_s: float
    ) -> dict[UUID, SendResult]:
        """Send a batch; where it is refused for what single items hold, send it again without them."""
        try:
            return await self._send_batch(tenant_id, batch, streamed, deadline_s, put_deadline_s)
        except TierError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            faulty = {each.id: refusal for each in batch if (refusal := against_contract(each)) is not None}
            if not faulty:
                raise
        # Under new keys: a key is used once. The answers go by the ids that the caller's emails have.
        renewed = [(each.id, each.renewed()) for each in batch if each.id not in faulty]
        answers: dict[UUID, SendResult] = dict(faulty)
        if renewed:
            found = await self._send_batch(
                tenant_id, [each for _, each in renewed], streamed, deadline_s, put_deadline_s
            )
            answers |= {first: found[each.id] for first, each in renewed}
        return answers

    async def _send_batch(
        self, tenant_id: UUID, batch: list[Prepared], streamed: set[str], deadline_s: float, put_deadline_s: float
    ) -> dict[UUID, SendResult]:
        claim_by = datetime.now(UTC) + CLAIM_WITHIN
        generation = keys.generation()
        try:
            refused = await self._put(tenant_id, batch, streamed, claim_by, generation, put_deadline_s)
        except BaseException:
            await self._undo(tenant_id, [each.key for each in batch])
            raise
        stored = [each for each in batch if each.id not in refused]
        answers: dict[UUID, SendResult] = dict(refused)
        if stored:
            try:
                answers |= await self._pivot(
                    tenant_id, stored, claim_by, generation, (min(put_deadline_s, deadline_s), deadline_s)
                )
            except TierError:
                # Refused for good. Whatever else may end the call here (no answer, a cancellation) leaves the emails
                # where they may stand, and is never undone.
                await self._undo(tenant_id, [each.key for each in stored])
                raise
        await self._undo(tenant_id, [each.key for each in stored if _lost(each, answers[each.id])])
        return answers

    async def _put(
        self,
        tenant_id: UUID,
        batch: Sequence[Prepared],
        streamed: set[str],
        claim_by: datetime,
        generation: int,
        deadline_s: float,
    ) -> dict[UUID, Refusal]:
        """Store the bodies; answers which were refused."""
        at = Timestamp()
        at.FromDatetime(claim_by)
        along, ahead = split_blobs(batch)
        for sha256, data in ahead.items():
            if sha256 not in streamed:
                await blobs.upload(self._content, tenant_id, data, at)
                streamed.add(sha256)
        request = content_pb.BatchPutContentsRequest(
            tenant_id=str(tenant_id),
            contents=[each.content for each in batch],
            blobs=along.values(),
            claim_by=at,
            generation=generation,
        )
        method = self._content.stub(ContentServiceStub).BatchPutContents
        reply = await self._content.insist(method, request, deadline_s=deadline_s)
        return {
            each.id: _refusal(result.error)
            for each, result in zip(batch, reply.results, strict=True)
            if result.WhichOneof("outcome") == "error"
        }

    async def _pivot(
        self,
        tenant_id: UUID,
        batch: Sequence[Prepared],
        claim_by: datetime,
        generation: int,
        deadlines: tuple[float, float],
    ) -> dict[UUID, SendResult]:
        """Create the rows. While it is certain that nothing was done it is given up at the first deadline, and else at
        the second (seconds)."""
        first_s, last_s = deadlines
        request = oltp_pb.BatchCreateEmailsRequest(
            tenant_id=str(tenant_id), emails=[each.row for each in batch], content_generation=generation
        )
        request.content_claim_by.FromDatetime(claim_by)
        method = self._oltp.stub(EmailServiceStub).BatchCreateEmails
        try:
            reply = await self._oltp.insist(method, request, deadline_s=first_s)
        except TierError as error:
            if not error.outcome_unknown:
                raise
            try:
                reply = await self._oltp.insist(method, request, deadline_s=last_s - first_s)
            except TierError as last:
                raise OutcomeUnknownError(tuple(each.request_id for each in batch), last) from last
        return {each.id: _result(result) for each, result in zip(batch, reply.results, strict=True)}

    async def _undo(self, tenant_id: UUID, storage_keys: Sequence[str]) -> None:
        """Delete what no email refers to. Best effort: what stays is unclaimed, and expires to quarantine."""
        if not storage_keys:
            return
        request = content_pb.DeleteContentsRequest(
            tenant_id=str(tenant_id), request_id=str(uuid4()), storage_keys=storage_keys, unclaimed_only=True
        )
        with contextlib.suppress(TierError):
            method = self._content.stub(ContentServiceStub).DeleteContents
            await self._content.insist(method, request, deadline_s=COMPENSATE_S)
            return
        log.warning("%d contents left to quarantine", len(storage_keys))


def _lost(prepared: Prepared, result: SendResult) -> bool:
    """Whether our key is not the one that stands: refused, or a repeat whose first key won."""
    return isinstance(result, Refusal) or result.storage_key != prepared.key


def _refusal(error: errors_pb2.ItemError) -> Refusal:
    reason = errors_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_")
    return Refusal(error.code, reason, error.message, error.field)


def _result(result: oltp_pb.CreateEmailResult) -> SendResult:
    if result.WhichOneof("outcome") == "error":
        return _refusal(result.error)
    return Sent(uuid_of(result.email.id), result.email.message_id, result.email.content_storage_key)
