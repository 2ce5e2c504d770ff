"""Onboarding: what a tenant needs before it can send. Each act is idempotent by the ids it is given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import email_account_service_pb2 as account_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1.email_account_service_pb2_grpc import EmailAccountServiceStub
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.leadbatches import create_leads
from penguin_orchestrator.messages import Attachment
from penguin_orchestrator.rendering import Renderer
from penguin_orchestrator.sagas.carrying import Sagas
from penguin_orchestrator.sagas.tenants import onboarding_id

CLAIM_WITHIN = timedelta(hours=6)
DEADLINE_S = 20.0


class Tenants:
    """Brings tenants and what belongs to them into being."""

    def __init__(self, content: Tier, oltp: Tier, sagas: Sagas) -> None:
        self._content = content
        self._oltp = oltp
        self._sagas = sagas

    async def onboard(self, name: str, *, tenant_id: UUID | None = None) -> UUID:
        """Make a tenant known to every tier, or to none; with the same id again it is the same tenant.

        Raises TierError (nothing stands of it; where its outcome is unknown it may come about, and the same call tells),
        SagaError.
        """
        tenant_id = tenant_id or keys.new_id()
        await self._sagas.carry_out("tenant.onboard", tenant_id, {"name": name}, saga_id=onboarding_id(tenant_id))
        return tenant_id

    async def close(self, tenant_id: UUID) -> None:
        """End a tenant's changes everywhere: campaigns and schedules are paused, queued emails and jobs cancelled, and all
        is kept. Raises TierError (NOT_FOUND), SagaError."""
        await self._sagas.carry_out("tenant.close", tenant_id, {}, subject="tenant")

    async def add_mailbox(self, tenant_id: UUID, email: str, display_name: str = "") -> UUID:
        """Create a mailbox to send from."""
        mailbox = keys.new_id()
        request = account_pb.CreateEmailAccountRequest(
            tenant_id=str(tenant_id),
            email_account=account_pb.NewEmailAccount(
                request_id=str(uuid4()), id=str(mailbox), email=email, display_name=display_name
            ),
        )
        method = self._oltp.stub(EmailAccountServiceStub).CreateEmailAccount
        await self._oltp.insist(method, request, deadline_s=DEADLINE_S)
        return mailbox

    async def add_leads(self, tenant_id: UUID, leads: Sequence[lead_pb.NewLead]) -> list[lead_pb.CreateLeadResult]:
        """Create leads in batches; answers in order. One that breaks the contract is answered so, and sinks no other."""
        return await create_leads(self._oltp, tenant_id, leads)

    async def add_template(
        self, tenant_id: UUID, name: str, *, subject: str, text: str, html: str, attachments: Sequence[Attachment] = ()
    ) -> UUID:
        """Create a template: its body into Content, its row into OLTP (the pivot, which owes the claim).

        Raises TemplateInvalidError before anything is stored.
        """
        Renderer(subject, text, html)
        key, generation, template = keys.storage_key(), keys.generation(), keys.new_id()
        put = content_pb.BatchPutContentsRequest(
            tenant_id=str(tenant_id),
            generation=generation,
            contents=[
                content_pb.NewContent(
                    request_id=str(uuid4()),
                    storage_key=key,
                    composed=content_pb.ComposedBody(text=text, html=html),
                    attachments=[
                        content_pb.NewAttachment(
                            filename=a.filename,
                            mime_type=a.mime_type,
                            data=a.data,
                            content_id=a.content_id,
                            disposition=content_pb.DISPOSITION_INLINE
                            if a.content_id
                            else content_pb.DISPOSITION_ATTACHMENT,
                        )
                        for a in attachments
                    ],
                )
            ],
        )
        put.claim_by.FromDatetime(datetime.now(UTC) + CLAIM_WITHIN)
        content = self._content.stub(ContentServiceStub)
        result = (await self._content.insist(content.BatchPutContents, put, deadline_s=DEADLINE_S)).results[0]
        if result.WhichOneof("outcome") == "error":
            raise ValueError(f"the template's body was refused: {result.error.message}")
        create = template_pb.CreateTemplateRequest(
            tenant_id=str(tenant_id),
            template=template_pb.NewTemplate(
                request_id=str(uuid4()),
                id=str(template),
                name=name,
                subject=subject,
                content_storage_key=key,
                content_generation=generation,
            ),
        )
        method = self._oltp.stub(TemplateServiceStub).CreateTemplate
        try:
            await self._oltp.insist(method, create, deadline_s=DEADLINE_S)
        except TierError as error:
            if not error.outcome_unknown:
                undo = content_pb.DeleteContentsRequest(
                    tenant_id=str(tenant_id), request_id=str(uuid4()), storage_keys=[key], unclaimed_only=True
                )
                await self._content.insist(content.DeleteContents, undo, deadline_s=DEADLINE_S)
            raise
        return template
