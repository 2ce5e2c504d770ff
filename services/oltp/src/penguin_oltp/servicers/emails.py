"""EmailService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1 import email_service_pb2_grpc
from penguin_chassis.mutations import gate_of, item_steps, now, step_of
from penguin_chassis.pool import Database
from penguin_chassis.wire import uuid_or_none, when, word
from penguin_oltp.domain.emails import Claim
from penguin_oltp.servicers import emails_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.attempts import AttemptStore
from penguin_oltp.store.emails import EmailStore
from penguin_oltp.store.events import EventStore


class EmailServicer(email_service_pb2_grpc.EmailServiceServicer):
    """The per-recipient ledger."""

    def __init__(self, db: Database) -> None:
        self._emails = EmailStore(db)
        self._attempts = AttemptStore(db)
        self._events = EventStore(db)

    async def BatchCreateEmails(
        self, request: pb.BatchCreateEmailsRequest, context: Any
    ) -> pb.BatchCreateEmailsResponse:
        at = now()
        steps = item_steps(request, request.emails, at=at)
        answers = await self._emails.create_batch(
            UUID(request.tenant_id),
            list(zip(steps, map(wire.new_email, request.emails), strict=True)),
            gate=gate_of(request, at=at),
            claim_by=when(request, "content_claim_by") or at,
            generation=request.content_generation,
            at=at,
        )
        return pb.BatchCreateEmailsResponse(results=map(wire.created, answers))

    async def GetEmail(self, request: pb.GetEmailRequest, context: Any) -> pb.GetEmailResponse:
        found = await self._emails.get(UUID(request.tenant_id), UUID(request.email_id))
        return pb.GetEmailResponse(email=wire.email(found))

    async def BatchGetEmails(self, request: pb.BatchGetEmailsRequest, context: Any) -> pb.BatchGetEmailsResponse:
        ids = [UUID(each) for each in request.email_ids]
        found = await self._emails.get_many(UUID(request.tenant_id), ids)
        missing = set(ids).difference(e.id for e in found)
        return pb.BatchGetEmailsResponse(emails=map(wire.email, found), missing_ids=sorted(map(str, missing)))

    async def ListEmails(self, request: pb.ListEmailsRequest, context: Any) -> pb.ListEmailsResponse:
        page = Page(request)
        found = await self._emails.list_page(
            UUID(request.tenant_id),
            after=page.after,
            limit=page.limit,
            campaign_id=uuid_or_none(request.campaign_id),
            status=word(pb.EmailStatus, request.status),
            recipient=request.recipient,
        )
        return pb.ListEmailsResponse(emails=map(wire.email, page.shown(found)), next_page_token=page.next(found))

    async def BatchStartAttempts(
        self, request: pb.BatchStartAttemptsRequest, context: Any
    ) -> pb.BatchStartAttemptsResponse:
        at = now()
        steps = item_steps(request, request.attempts, at=at)
        claims = [Claim(UUID(item.email_id), item.lease_lost_before) for item in request.attempts]
        answers = await self._attempts.start_batch(UUID(request.tenant_id), list(zip(steps, claims, strict=True)), at)
        return pb.BatchStartAttemptsResponse(results=map(wire.started, answers))

    async def BatchRecordOutcomes(
        self, request: pb.BatchRecordOutcomesRequest, context: Any
    ) -> pb.BatchRecordOutcomesResponse:
        steps = item_steps(request, request.outcomes)
        outcomes = map(wire.outcome, request.outcomes)
        answers = await self._attempts.record_batch(UUID(request.tenant_id), list(zip(steps, outcomes, strict=True)))
        return pb.BatchRecordOutcomesResponse(results=map(wire.recorded, answers))

    async def BatchRecordEvents(
        self, request: pb.BatchRecordEventsRequest, context: Any
    ) -> pb.BatchRecordEventsResponse:
        events = [wire.event(item) for item in request.events]
        answers = await self._events.record(UUID(request.tenant_id), events, now())
        return pb.BatchRecordEventsResponse(results=map(wire.event_recorded, answers))

    async def SettleEmail(self, request: pb.SettleEmailRequest, context: Any) -> pb.SettleEmailResponse:
        settlement = word(pb.Settlement, request.settlement)
        email = await self._attempts.settle(step_of(request), UUID(request.email_id), settlement, request.reason)
        return pb.SettleEmailResponse(email=wire.email(email))

    async def CancelEmails(self, request: pb.CancelEmailsRequest, context: Any) -> pb.CancelEmailsResponse:
        ids = [UUID(each) for each in request.email_ids]
        cancelled = await self._attempts.cancel(step_of(request), ids)
        skipped = set(ids).difference(cancelled)
        return pb.CancelEmailsResponse(cancelled_ids=map(str, cancelled), skipped_ids=sorted(map(str, skipped)))

    async def RequeueEmails(self, request: pb.RequeueEmailsRequest, context: Any) -> pb.RequeueEmailsResponse:
        ids = [UUID(each) for each in request.email_ids]
        done = await self._attempts.requeue(step_of(request), ids)
        skipped = set(ids).difference(done.emails, done.held)
        return pb.RequeueEmailsResponse(
            requeued_ids=map(str, done.emails), skipped_ids=sorted(map(str, skipped)), held_ids=map(str, done.held)
        )
