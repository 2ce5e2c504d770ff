"""InboxService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import inbox_service_pb2 as pb
from penguin.oltp.v1 import inbox_service_pb2_grpc
from penguin_chassis.mutations import gate_of, item_steps, now, step_of
from penguin_chassis.pool import Database
from penguin_chassis.wire import when
from penguin_oltp.servicers import inbox_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.inbox import InboxStore


class InboxServicer(inbox_service_pb2_grpc.InboxServiceServicer):
    """References to mail received or imported."""

    def __init__(self, db: Database) -> None:
        self._inbox = InboxStore(db)

    async def BatchCreateInboxMessages(
        self, request: pb.BatchCreateInboxMessagesRequest, context: Any
    ) -> pb.BatchCreateInboxMessagesResponse:
        at = now()
        messages = [wire.new_inbox_message(request, item, at) for item in request.messages]
        answers = await self._inbox.create_batch(
            UUID(request.tenant_id),
            list(zip(item_steps(request, request.messages, at=at), messages, strict=True)),
            gate=gate_of(request, at=at),
            claim_by=when(request, "content_claim_by") or at,
            generation=request.content_generation,
            at=at,
        )
        return pb.BatchCreateInboxMessagesResponse(results=map(wire.created, answers))

    async def GetInboxMessage(self, request: pb.GetInboxMessageRequest, context: Any) -> pb.GetInboxMessageResponse:
        found = await self._inbox.get(UUID(request.tenant_id), UUID(request.inbox_message_id))
        return pb.GetInboxMessageResponse(inbox_message=wire.inbox_message(found))

    async def ListInboxMessages(
        self, request: pb.ListInboxMessagesRequest, context: Any
    ) -> pb.ListInboxMessagesResponse:
        page = Page(request)
        found = await self._inbox.list_page(
            UUID(request.tenant_id), page.after, page.limit, mailbox=request.mailbox, thread_id=request.thread_id
        )
        return pb.ListInboxMessagesResponse(
            inbox_messages=map(wire.inbox_message, page.shown(found)), next_page_token=page.next(found)
        )

    async def FindFingerprints(self, request: pb.FindFingerprintsRequest, context: Any) -> pb.FindFingerprintsResponse:
        found = await self._inbox.find_fingerprints(UUID(request.tenant_id), request.mailbox, request.fingerprints)
        return pb.FindFingerprintsResponse(found=found)

    async def DeleteInboxMessages(
        self, request: pb.DeleteInboxMessagesRequest, context: Any
    ) -> pb.DeleteInboxMessagesResponse:
        ids = [UUID(each) for each in request.inbox_message_ids]
        return pb.DeleteInboxMessagesResponse(deleted=await self._inbox.delete(step_of(request), ids))
