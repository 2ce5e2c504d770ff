"""Composed reads: each degrades tier by tier and says what is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError

# Content has no such key: the reference dangles.
GONE = "CONTENT_MISSING"
PAGE = 200
THREAD_LIMIT = 1000


@dataclass(frozen=True)
class Body:
    """A body, or why there is none (`unavailable`: a reason of the contract, or CONTENT_MISSING)."""

    content: content_pb.Content | None
    unavailable: str = ""


@dataclass(frozen=True)
class EmailWithBody:
    """One email of the ledger with its body."""

    email: email_pb.Email
    body: Body


@dataclass(frozen=True)
class ThreadMessage:
    """One message of an inbox thread with its body."""

    message: inbox_pb.InboxMessage
    body: Body


class Reader:
    """Reads across OLTP and Content. OLTP must answer; Content may be away."""

    def __init__(self, content: Tier, oltp: Tier) -> None:
        self._content = content
        self._oltp = oltp

    async def get_email(self, tenant_id: UUID, email_id: UUID, *, full: bool = False) -> EmailWithBody:
        """An email with its body (attachments' bytes too when `full`); raises TierError when OLTP refuses."""
        request = email_pb.GetEmailRequest(tenant_id=str(tenant_id), email_id=str(email_id))
        reply = await self._oltp.call(self._oltp.stub(EmailServiceStub).GetEmail, request)
        return EmailWithBody(reply.email, await self.body(tenant_id, reply.email.content_storage_key, full=full))

    async def body(self, tenant_id: UUID, storage_key: str, *, full: bool = False) -> Body:
        """One body, or the reason why it is not to be had."""
        request = content_pb.GetContentRequest(
            tenant_id=str(tenant_id),
            storage_key=storage_key,
            view=content_pb.CONTENT_VIEW_FULL if full else content_pb.CONTENT_VIEW_BODY,
        )
        try:
            reply = await self._content.call(self._content.stub(ContentServiceStub).GetContent, request)
        except TierError as error:
            return Body(None, GONE if error.reason == "NOT_FOUND" else error.reason or error.code.name)
        return Body(reply.content)

    async def bodies(self, tenant_id: UUID, storage_keys: Sequence[str]) -> dict[str, Body]:
        """Many bodies without attachments' bytes; every key is answered."""
        found: dict[str, Body] = {}
        wanted = list(dict.fromkeys(storage_keys))
        method = self._content.stub(ContentServiceStub).BatchGetContents
        while wanted:
            request = content_pb.BatchGetContentsRequest(
                tenant_id=str(tenant_id), storage_keys=wanted[:PAGE], view=content_pb.CONTENT_VIEW_BODY
            )
            try:
                reply = await self._content.call(method, request)
            except TierError as error:
                return found | {key: Body(None, error.reason or error.code.name) for key in wanted}
            found |= {content.metadata.storage_key: Body(content) for content in reply.contents}
            found |= {key: Body(None, GONE) for key in reply.missing_keys}
            answered = len(wanted)
            wanted = [key for key in wanted if key not in found]
            if len(wanted) == answered:
                return found | {key: Body(None, "TOO_LARGE") for key in wanted}
        return found

    async def get_thread(self, tenant_id: UUID, thread_id: str) -> list[ThreadMessage]:
        """An inbox thread (at most 1,000 messages), oldest first."""
        messages = [m async for m in self._messages(tenant_id, thread_id)]
        bodies = await self.bodies(tenant_id, [m.content_storage_key for m in messages])
        messages.sort(key=lambda m: (m.sent_at.seconds or m.received_at.seconds, m.id))
        return [ThreadMessage(m, bodies[m.content_storage_key]) for m in messages]

    async def _messages(self, tenant_id: UUID, thread_id: str) -> AsyncIterator[inbox_pb.InboxMessage]:
        token, count = "", 0
        method = self._oltp.stub(InboxServiceStub).ListInboxMessages
        while count < THREAD_LIMIT:
            request = inbox_pb.ListInboxMessagesRequest(
                tenant_id=str(tenant_id), thread_id=thread_id, page_size=PAGE, page_token=token
            )
            reply = await self._oltp.call(method, request)
            for message in reply.inbox_messages:
                count += 1
                yield message
            token = reply.next_page_token
            if not token:
                return
