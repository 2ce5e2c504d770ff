"""Small fake peers behind the contracts' stubs, for tests of what calls tiers. They keep the rules a caller can see
(leases, claims by compare-and-set), can be taken down or slowed, and are no substitute for the tiers' own tests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from penguin.common.v1 import errors_pb2
from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1 import content_service_pb2_grpc as content_grpc
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import campaign_service_pb2_grpc as campaign_grpc
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import email_service_pb2_grpc as email_grpc
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1 import tenant_service_pb2_grpc as tenant_grpc
from penguin.queue.v1 import queue_service_pb2_grpc as queue_grpc
from penguin_orchestrator.clients import OPTIONS, Tier
from penguin_orchestrator.tokens import TokenSource
from penguin_testkit.fake_queue import FakeQueue
from penguin_testkit.switches import Switch

NOT_FOUND = 5


class NoTokens(TokenSource):
    """For peers that ask for none."""

    async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
        return "none"

    async def platform_token(self, tier: str, method: str, scope: str) -> str:
        return "none"


class FakeEmails(email_grpc.EmailServiceServicer):
    """The ledger in memory: the claim by compare-and-set, and outcomes; unknown ones are held."""

    def __init__(self) -> None:
        self.switch = Switch()
        self.emails: dict[str, email_pb.Email] = {}
        self.outcomes: dict[tuple[str, int], email_pb.RecordOutcome] = {}
        self._claims: dict[str, email_pb.StartedAttempt] = {}

    def put(self, tenant_id: UUID, storage_key: str, **fields: Any) -> email_pb.Email:
        """A queued email."""
        email_id = str(uuid4())
        usual: dict[str, Any] = {
            "id": email_id,
            "tenant_id": str(tenant_id),
            "recipient": "ada@example.com",
            "sender": "us@sender.example",
            "subject": "Hello",
            "status": email_pb.EMAIL_STATUS_QUEUED,
            "content_storage_key": storage_key,
            "message_id": f"<{email_id}@sender.example>",
        }
        email = email_pb.Email(**(usual | fields))
        self.emails[email.id] = email
        return email

    def status(self, email_id: str) -> str:
        """queued, sending, sent, failed, outcome_unknown, …"""
        return email_pb.EmailStatus.Name(self.emails[email_id].status).removeprefix("EMAIL_STATUS_").lower()

    async def BatchGetEmails(  # noqa: N802
        self, request: email_pb.BatchGetEmailsRequest, context: Any
    ) -> email_pb.BatchGetEmailsResponse:
        await self.switch.enter("BatchGetEmails", context)
        reply = email_pb.BatchGetEmailsResponse()
        for email_id in request.email_ids:
            email = self.emails.get(email_id)
            if email is None or email.tenant_id != request.tenant_id:
                reply.missing_ids.append(email_id)
            else:
                reply.emails.append(email)
        return reply

    async def BatchStartAttempts(  # noqa: N802
        self, request: email_pb.BatchStartAttemptsRequest, context: Any
    ) -> email_pb.BatchStartAttemptsResponse:
        await self.switch.enter("BatchStartAttempts", context)
        reply = email_pb.BatchStartAttemptsResponse()
        for item in request.attempts:
            email = self.emails.get(item.email_id)
            if email is None:
                error = errors_pb2.ItemError(code=NOT_FOUND, reason=errors_pb2.ERROR_REASON_NOT_FOUND)
                reply.results.add(error=error)
                continue
            if item.request_id not in self._claims:
                self._claims[item.request_id] = self._start(email)
            reply.results.add(started=self._claims[item.request_id])
        await self.switch.leave("BatchStartAttempts", context)
        return reply

    @staticmethod
    def _start(email: email_pb.Email) -> email_pb.StartedAttempt:
        decision = email_pb.ATTEMPT_DECISION_DONE
        if email.status in {email_pb.EMAIL_STATUS_SENDING, email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN}:
            email.status = email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN
            decision = email_pb.ATTEMPT_DECISION_HELD
        elif email.HasField("send_at") and email.send_at.ToMilliseconds() > time.time() * 1000:
            decision = email_pb.ATTEMPT_DECISION_EARLY
        elif email.status == email_pb.EMAIL_STATUS_QUEUED:
            email.status, email.attempt = email_pb.EMAIL_STATUS_SENDING, email.attempt + 1
            decision = email_pb.ATTEMPT_DECISION_SEND
        kept = email_pb.Email()
        kept.CopyFrom(email)
        return email_pb.StartedAttempt(decision=decision, email=kept)

    async def BatchRecordOutcomes(  # noqa: N802
        self, request: email_pb.BatchRecordOutcomesRequest, context: Any
    ) -> email_pb.BatchRecordOutcomesResponse:
        await self.switch.enter("BatchRecordOutcomes", context)
        reply = email_pb.BatchRecordOutcomesResponse()
        for item in request.outcomes:
            email = self.emails[item.email_id]
            self.outcomes[item.email_id, item.attempt] = item
            if item.attempt == email.attempt:
                email.status = _after(item)
            reply.results.add(status=email.status)
        await self.switch.leave("BatchRecordOutcomes", context)
        return reply


def _after(item: email_pb.RecordOutcome) -> email_pb.EmailStatus.ValueType:
    if item.outcome == email_pb.ATTEMPT_OUTCOME_DEFERRED and not item.final:
        return email_pb.EMAIL_STATUS_QUEUED
    return {
        email_pb.ATTEMPT_OUTCOME_SENT: email_pb.EMAIL_STATUS_SENT,
        email_pb.ATTEMPT_OUTCOME_UNKNOWN: email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN,
    }.get(item.outcome, email_pb.EMAIL_STATUS_FAILED)


class FakeContents(content_grpc.ContentServiceServicer):
    """Bodies in memory."""

    def __init__(self) -> None:
        self.switch = Switch()
        self.contents: dict[str, content_pb.Content] = {}

    def put(self, text: str = "", html: str = "", attachments: tuple[content_pb.Attachment, ...] = ()) -> str:
        """A content; returns its key."""
        key = f"k/{uuid4()}"
        metadata = content_pb.ContentMetadata(storage_key=key)
        self.contents[key] = content_pb.Content(metadata=metadata, text=text, html=html, attachments=attachments)
        return key

    async def BatchGetContents(  # noqa: N802
        self, request: content_pb.BatchGetContentsRequest, context: Any
    ) -> content_pb.BatchGetContentsResponse:
        await self.switch.enter("BatchGetContents", context)
        reply = content_pb.BatchGetContentsResponse()
        for key in request.storage_keys:
            if key not in self.contents:
                reply.missing_keys.append(key)
                continue
            content = reply.contents.add()
            content.CopyFrom(self.contents[key])
            for attachment in content.attachments:
                attachment.ClearField("data")
        return reply

    async def DownloadAttachment(  # noqa: N802
        self, request: content_pb.DownloadAttachmentRequest, context: Any
    ) -> AsyncIterator[content_pb.DownloadAttachmentResponse]:
        await self.switch.enter("DownloadAttachment", context)
        data = self.contents[request.storage_key].attachments[request.position].data
        for offset in range(0, len(data), 65536):
            yield content_pb.DownloadAttachmentResponse(offset=offset, chunk=data[offset : offset + 65536])


class FakeCampaigns(campaign_grpc.CampaignServiceServicer):
    """Campaigns that complete once `open_emails` is 0; answers by request_id, as every tier does."""

    def __init__(self) -> None:
        self.switch = Switch()
        self.open_emails = 0
        # The tenant of all of them is.
        self.closed = False
        self.completed: list[str] = []

    async def CompleteCampaign(  # noqa: N802
        self, request: campaign_pb.CompleteCampaignRequest, context: Any
    ) -> campaign_pb.CompleteCampaignResponse:
        await self.switch.enter("CompleteCampaign", context)
        if self.closed:
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "TENANT_CLOSED")
        if self.open_emails:
            await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT", state="running")
        self.completed.append(request.campaign_id)
        return campaign_pb.CompleteCampaignResponse(campaign=campaign_pb.Campaign(id=request.campaign_id))


class FakeTenants(tenant_grpc.TenantServiceServicer):
    """A list of tenants, two to a page; some of them closed, since when."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.closed: dict[str, datetime] = {}

    async def ListTenants(  # noqa: N802
        self, request: tenant_pb.ListTenantsRequest, context: Any
    ) -> tenant_pb.ListTenantsResponse:
        first = int(request.page_token or 0)
        more = str(first + 2) if first + 2 < len(self.ids) else ""
        tenants = [tenant_pb.Tenant(id=each) for each in self.ids[first : first + 2]]
        for tenant in tenants:
            if tenant.id in self.closed:
                tenant.status = tenant_pb.TENANT_STATUS_CLOSED
                tenant.updated_at.FromDatetime(self.closed[tenant.id])
        return tenant_pb.ListTenantsResponse(tenants=tenants, next_page_token=more)


async def refuse(context: Any, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
    """Answer as a tier refuses: a status with ErrorInfo."""
    status = status_pb2.Status(code=code.value[0], message="refused")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="test", metadata=metadata))
    await context.abort_with_status(rpc_status.to_status(status))


@dataclass
class Peers:
    """The fake tiers that sending needs."""

    queue: FakeQueue = field(default_factory=FakeQueue)
    emails: FakeEmails = field(default_factory=FakeEmails)
    contents: FakeContents = field(default_factory=FakeContents)
    campaigns: FakeCampaigns = field(default_factory=FakeCampaigns)
    tenants: FakeTenants = field(default_factory=FakeTenants)
    # Where they serve, once they do.
    port: int = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[dict[str, Tier]]:
        """The tiers as a caller has them, each behind a channel of its own."""
        async with contextlib.AsyncExitStack() as stack:
            server = grpc.aio.server()
            queue_grpc.add_QueueServiceServicer_to_server(self.queue, server)
            email_grpc.add_EmailServiceServicer_to_server(self.emails, server)
            content_grpc.add_ContentServiceServicer_to_server(self.contents, server)
            campaign_grpc.add_CampaignServiceServicer_to_server(self.campaigns, server)
            tenant_grpc.add_TenantServiceServicer_to_server(self.tenants, server)
            self.port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, None)
            tiers = {}
            for name in ("oltp", "content", "queue", "olap"):
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=OPTIONS)
                stack.push_async_callback(channel.close, None)
                tiers[name] = Tier(name, channel, NoTokens(), f"127.0.0.1:{self.port}")
            yield tiers
