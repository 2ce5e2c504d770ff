"""Scenes that end-to-end and failure tests play: a tenant with a campaign, and what must be true once all is sent."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from uuid import UUID, uuid4

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin_devstack.spool import read_messages
from penguin_devstack.stack import LocalStack
from penguin_orchestrator import keys
from penguin_orchestrator.messages import Attachment
from penguin_orchestrator.platform import Penguin

HTML = "<p>Hello {{ first_name }}</p><p>This is for {{ company }}.</p>" + "<p>We wrote a line.</p>" * 20
TEXT = "Hello {{ first_name }}, this is for {{ company }}.\n" + "We wrote a line.\n" * 20
WAIT_S = 60.0


@dataclass(frozen=True)
class Scene:
    """A tenant with a campaign that is ready to be launched."""

    tenant: UUID
    campaign: UUID
    recipients: frozenset[str]


async def campaign(penguin: Penguin, size: int) -> Scene:
    """A tenant of its own with `size` leads, a mailbox, a template with an attachment, and a draft campaign."""
    mark = uuid4().hex[:10]
    tenant = await penguin.tenants.onboard(f"Tenant {mark}")
    recipients = [f"lead-{n}-{mark}@example.com" for n in range(size)]
    leads = [
        lead_pb.NewLead(
            request_id=str(uuid4()),
            id=str(keys.new_id()),
            email=address,
            first_name=f"Name{n}",
            company="Acme",
            list="all",
        )
        for n, address in enumerate(recipients)
    ]
    await penguin.tenants.add_leads(tenant, leads)
    mailbox = await penguin.tenants.add_mailbox(tenant, f"us-{mark}@sender.example", "Us")
    template = await penguin.tenants.add_template(
        tenant, "Hello", subject="For {{ first_name }}", text=TEXT, html=HTML,
        attachments=[Attachment("offer.pdf", "application/pdf", b"%PDF-1.4 " + bytes(range(256)) * 8)],
    )  # fmt: skip
    launched = await penguin.campaigns.create(tenant, "Spring", "all", template_id=template, mailbox_id=mailbox)
    return Scene(tenant, launched, frozenset(recipients))


async def statuses(penguin: Penguin, scene: Scene) -> Counter[str]:
    """The campaign's emails by status."""
    oltp = penguin.tiers["oltp"]
    request = campaign_pb.GetCampaignProgressRequest(tenant_id=str(scene.tenant), campaign_id=str(scene.campaign))
    reply = await oltp.insist(oltp.stub(CampaignServiceStub).GetCampaignProgress, request, deadline_s=30)
    return Counter({email_pb.EmailStatus.Name(c.status).removeprefix("EMAIL_STATUS_"): c.count for c in reply.counts})


async def settled(penguin: Penguin, scene: Scene, wait_s: float = WAIT_S) -> Counter[str]:
    """The statuses once no email is on its way any more; fails after `wait_s` seconds."""
    ends = time.monotonic() + wait_s
    while True:
        counts = await statuses(penguin, scene)
        if sum(counts.values()) >= len(scene.recipients) and not counts["QUEUED"] and not counts["SENDING"]:
            return counts
        assert time.monotonic() < ends, f"still on their way after {wait_s} s: {dict(counts)}"
        await asyncio.sleep(0.25)


def received(stack: LocalStack, scene: Scene) -> Counter[str]:
    """How many messages each recipient got; the receiving server never deduplicates."""
    found: Counter[str] = Counter()
    for message in read_messages(stack.smtp_store):
        found.update(r for r in message.recipients if r in scene.recipients)
    return found


async def unclaimed(penguin: Penguin, scene: Scene, wait_s: float = 60.0) -> list[str]:
    """Contents of the tenant that nothing has claimed, once the relay has had its time.

    What a killed relay had leased comes back when its lease (30 s) has run out.
    """
    content = penguin.tiers["content"]
    method = content.stub(ContentServiceStub).ListContents
    ends = time.monotonic() + wait_s
    while True:
        found: list[str] = []
        for state in (content_pb.CONTENT_STATE_UNCLAIMED, content_pb.CONTENT_STATE_QUARANTINED):
            request = content_pb.ListContentsRequest(tenant_id=str(scene.tenant), page_size=1000, state=state)
            reply = await content.insist(method, request, deadline_s=30)
            found += [c.storage_key for c in reply.contents]
        if not found or time.monotonic() > ends:
            return found
        await asyncio.sleep(0.25)


async def strays(penguin: Penguin, scene: Scene) -> set[str]:
    """Contents of the tenant that neither an email nor its template refers to, whatever their state."""
    content = penguin.tiers["content"]
    keys_stored: set[str] = set()
    token = ""
    while True:
        request = content_pb.ListContentsRequest(tenant_id=str(scene.tenant), page_size=1000, page_token=token)
        reply = await content.insist(content.stub(ContentServiceStub).ListContents, request, deadline_s=30)
        keys_stored |= {c.storage_key for c in reply.contents}
        token = reply.next_page_token
        if not token:
            break
    oltp = penguin.tiers["oltp"]
    templates = template_pb.ListTemplatesRequest(tenant_id=str(scene.tenant))
    owned = await oltp.insist(oltp.stub(TemplateServiceStub).ListTemplates, templates, deadline_s=30)
    referred = {e.content_storage_key for e in await emails_of(penguin, scene)}
    assert referred <= keys_stored, "an email refers to a content that is gone"
    return keys_stored - referred - {t.content_storage_key for t in owned.templates}


async def emails_of(penguin: Penguin, scene: Scene) -> list[email_pb.Email]:
    """Every email of the campaign."""
    oltp = penguin.tiers["oltp"]
    emails: list[email_pb.Email] = []
    token = ""
    while True:
        request = email_pb.ListEmailsRequest(
            tenant_id=str(scene.tenant), campaign_id=str(scene.campaign), page_size=1000, page_token=token
        )
        reply = await oltp.insist(oltp.stub(EmailServiceStub).ListEmails, request, deadline_s=30)
        emails += reply.emails
        token = reply.next_page_token
        if not token:
            return emails
