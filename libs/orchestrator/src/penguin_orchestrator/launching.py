"""A launch's own work: renders the template for each lead and sends in batches. Repeated, it writes what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import email_account_service_pb2 as account_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import sequence_step_service_pb2 as step_pb
from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.email_account_service_pb2_grpc import EmailAccountServiceStub
from penguin.oltp.v1.sequence_step_service_pb2_grpc import SequenceStepServiceStub
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError, first_failure
from penguin_orchestrator.messages import OutgoingEmail, Refusal, StoredAttachment
from penguin_orchestrator.rendering import Renderer
from penguin_orchestrator.sending import Sender

# A launch rides out an outage of this length with the keys and ids it has minted (seconds).
DEADLINE_S = 120.0
PAGE = 500
BATCH = 100
# Batches of one launch on their way at once: one is being stored while another is being written.
PARALLEL = 3
REFUSALS_KEPT = 100
Progress = Callable[[Mapping[str, Any]], None]


class LaunchError(Exception):
    """The campaign cannot be launched as it stands."""


@dataclass(frozen=True)
class Plan:
    """What every email of the launch has in common."""

    campaign_id: UUID
    step_id: UUID
    mailbox: account_pb.EmailAccount
    renderer: Renderer
    attachments: tuple[StoredAttachment, ...]


class Launcher:
    """Writes the emails of a running campaign."""

    def __init__(self, content: Tier, oltp: Tier, sender: Sender) -> None:
        self._content = content
        self._oltp = oltp
        self._sender = sender

    async def plan(self, tenant_id: UUID, campaign_id: UUID) -> Plan:
        """What is to be sent; raises LaunchError, TemplateInvalidError, TierError."""
        return await self._plan(tenant_id, campaign_id, await self._first_step(tenant_id, campaign_id))

    async def send_all(
        self, tenant_id: UUID, plan: Plan, so_far: Mapping[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Send to everyone who has no email of the step yet; answers, and reports, how many were created and refused (the
        first 100 in full), `so_far` included; `stopped` where the campaign no longer runs.

        Who is refused has no email, and is refused anew in each try: what is reported is the most of any try, so that a try
        which does nothing new reports nothing new. One that is being created by another launch at the same time is created once. Raises TierError, OutcomeUnknownError.
        """
        told: dict[str, Any] = {"created": 0, "refused": 0, "refusals": []} | dict(so_far)
        try:
            await self._send_pending(tenant_id, plan, told, progress)
        except TierError as error:
            # Paused or cancelled meanwhile: only a running one has recipients waiting.
            if error.reason != "STATE_CONFLICT":
                raise
            return told | {"stopped": True}
        return told

    async def _send_pending(self, tenant_id: UUID, plan: Plan, told: dict[str, Any], progress: Progress) -> None:
        places = asyncio.Semaphore(PARALLEL)
        anew: dict[str, Any] = {"refused": 0, "refusals": []}

        async def send(leads: Sequence[lead_pb.Lead]) -> None:
            try:
                emails = [_email(plan, lead) for lead in leads]
                results = await self._sender.send_emails(
                    tenant_id, emails, deadline_s=DEADLINE_S, put_deadline_s=DEADLINE_S
                )
            finally:
                places.release()
            for lead, result in zip(leads, results, strict=True):
                if not isinstance(result, Refusal):
                    told["created"] += 1
                elif result.reason != "ALREADY_EXISTS":  # another launch of the same campaign was faster
                    anew["refused"] += 1
                    if len(anew["refusals"]) < REFUSALS_KEPT:
                        anew["refusals"].append([lead.id, result.code, result.reason, result.message, result.field])
            if anew["refused"] > told["refused"]:
                told.update(anew)
            progress(told)

        token = ""
        method = self._oltp.stub(CampaignServiceStub).ListPendingRecipients
        async with first_failure(), asyncio.TaskGroup() as group:
            while True:
                request = campaign_pb.ListPendingRecipientsRequest(
                    tenant_id=str(tenant_id), campaign_id=str(plan.campaign_id), step_id=str(plan.step_id),
                    page_size=PAGE, page_token=token,
                )  # fmt: skip
                page = await self._oltp.insist(method, request, deadline_s=DEADLINE_S)
                for first in range(0, len(page.leads), BATCH):
                    await places.acquire()
                    group.create_task(send(page.leads[first : first + BATCH]))
                token = page.next_page_token
                if not token:
                    break
        told.update(anew)  # it went through them all

    async def _first_step(self, tenant_id: UUID, campaign_id: UUID) -> step_pb.SequenceStep:
        request = step_pb.ListSequenceStepsRequest(tenant_id=str(tenant_id), campaign_id=str(campaign_id))
        reply = await self._oltp.insist(
            self._oltp.stub(SequenceStepServiceStub).ListSequenceSteps, request, deadline_s=DEADLINE_S
        )
        steps = [s for s in reply.sequence_steps if s.is_active and s.step_type == step_pb.SEQUENCE_STEP_TYPE_EMAIL]
        if not steps:
            raise LaunchError("The campaign has no active email step.")
        first: step_pb.SequenceStep = min(steps, key=lambda s: s.step_order)
        if not first.template_id or not first.email_account_id:
            raise LaunchError("The campaign's first step lacks a template or a mailbox.")
        return first

    async def _plan(self, tenant_id: UUID, campaign_id: UUID, step: step_pb.SequenceStep) -> Plan:
        get_template = template_pb.GetTemplateRequest(tenant_id=str(tenant_id), template_id=step.template_id)
        get_mailbox = account_pb.GetEmailAccountRequest(
            tenant_id=str(tenant_id), email_account_id=step.email_account_id
        )
        template, mailbox = await asyncio.gather(
            self._oltp.insist(self._oltp.stub(TemplateServiceStub).GetTemplate, get_template, deadline_s=DEADLINE_S),
            self._oltp.insist(
                self._oltp.stub(EmailAccountServiceStub).GetEmailAccount, get_mailbox, deadline_s=DEADLINE_S
            ),
        )
        get_content = content_pb.GetContentRequest(
            tenant_id=str(tenant_id),
            storage_key=template.template.content_storage_key,
            view=content_pb.CONTENT_VIEW_BODY,
        )
        method = self._content.stub(ContentServiceStub).GetContent
        content = (await self._content.insist(method, get_content, deadline_s=DEADLINE_S)).content
        subject = step.subject_override or template.template.subject
        return Plan(
            campaign_id=campaign_id,
            step_id=UUID(step.id),
            mailbox=mailbox.email_account,
            renderer=Renderer(subject, content.text, content.html),
            attachments=tuple(
                StoredAttachment(a.filename, a.mime_type, a.sha256, a.content_id) for a in content.attachments
            ),
        )


def _email(plan: Plan, lead: lead_pb.Lead) -> OutgoingEmail:
    fields = dict(lead.custom_fields) | {
        "email": lead.email,
        "first_name": lead.first_name,
        "last_name": lead.last_name,
        "company": lead.company,
    }
    rendered = plan.renderer.render(fields)
    return OutgoingEmail(
        recipient=lead.email,
        recipient_name=f"{lead.first_name} {lead.last_name}".strip(),
        sender=plan.mailbox.email,
        sender_name=plan.mailbox.display_name,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        attachments=plan.attachments,
        campaign_id=plan.campaign_id,
        step_id=plan.step_id,
        lead_id=UUID(lead.id),
        email_account_id=UUID(plan.mailbox.id),
        # The same lead and step are the same email, whoever launches.
        request_id=keys.request_id("campaign", plan.step_id, lead.id),
    )
