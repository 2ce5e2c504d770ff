"""Rows and requests that OLTP's tests begin with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import company_service_pb2 as company_pb
from penguin.oltp.v1 import domain_service_pb2 as domain_pb
from penguin.oltp.v1 import email_account_service_pb2 as account_pb
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import sequence_step_service_pb2 as step_pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1 import user_service_pb2 as user_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.email_account_service_pb2_grpc import EmailAccountServiceStub
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.oltp.v1.sequence_step_service_pb2_grpc import SequenceStepServiceStub
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient


def ahead(seconds: float) -> Timestamp:
    """A moment from now."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return stamp


async def make_tenant(db: Database, policy: str = "hold") -> UUID:
    """A tenant that nothing else uses."""
    tenant = uuid4()
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO tenants (tenant_id, name, status, unknown_outcome_policy, created_at, updated_at)"
            " VALUES ($1, 'Test', 'active', $2, now(), now())",
            tenant,
            policy,
        )
    return tenant


def new_email(**fields: Any) -> pb.NewEmail:
    """A right item of a batch create."""
    return pb.NewEmail(
        **{
            "request_id": str(uuid4()),
            "id": str(uuid4()),
            "recipient": "ada@example.com",
            "sender": "us@sender.example",
            "subject": "Hello",
            "content_storage_key": f"k/{uuid4()}",
        }
        | fields
    )


def create_request(tenant: UUID, *emails: pb.NewEmail, claim_s: float = 3600) -> pb.BatchCreateEmailsRequest:
    """A batch create."""
    return pb.BatchCreateEmailsRequest(
        tenant_id=str(tenant), emails=emails, content_claim_by=ahead(claim_s), content_generation=1
    )


def _minted(fields: dict[str, Any]) -> dict[str, Any]:
    return {"request_id": str(uuid4()), "id": str(uuid4())} | fields


def new_tenant(**fields: Any) -> tenant_pb.NewTenant:
    """A right tenant."""
    return tenant_pb.NewTenant(**_minted({"name": "Acme"} | fields))


def new_user(**fields: Any) -> user_pb.NewUser:
    """A right user."""
    return user_pb.NewUser(**_minted({"email": f"{uuid4().hex}@Example.com", "roles": ["admin", "member"]} | fields))


def new_company(**fields: Any) -> company_pb.NewCompany:
    """A right company."""
    return company_pb.NewCompany(**_minted({"name": "Acme", "website": "https://acme.example"} | fields))


def new_domain(**fields: Any) -> domain_pb.NewDomain:
    """A right sending domain."""
    record = domain_pb.DnsRecord(type="TXT", name="_dmarc", value="v=DMARC1; p=none")
    return domain_pb.NewDomain(
        **_minted({"domain": f"{uuid4().hex}.example", "dns_records": [record], "is_primary": True} | fields)
    )


def new_account(**fields: Any) -> account_pb.NewEmailAccount:
    """A right mailbox."""
    server = account_pb.MailServer(host="smtp.example", port=587, tls=True, username="us")
    return account_pb.NewEmailAccount(
        **_minted({"email": f"{uuid4().hex}@sender.example", "display_name": "Us", "smtp": server} | fields)
    )


def new_lead(**fields: Any) -> lead_pb.NewLead:
    """A right lead."""
    return lead_pb.NewLead(
        **_minted({"email": f"{uuid4().hex}@Example.com", "list": "spring", "custom_fields": {"city": "Graz"}} | fields)
    )


def new_template(**fields: Any) -> template_pb.NewTemplate:
    """A right template."""
    return template_pb.NewTemplate(
        **_minted(
            {"name": "Hello", "subject": "Hi {{ first_name }}", "content_storage_key": f"k/{uuid4()}"}
            | {"content_generation": 3}
            | fields
        )
    )


def new_campaign(**fields: Any) -> campaign_pb.NewCampaign:
    """A right campaign."""
    return campaign_pb.NewCampaign(**_minted({"name": "Spring", "audience_list": "spring"} | fields))


def new_step(**fields: Any) -> step_pb.NewSequenceStep:
    """A step of a campaign that is to be named."""
    return step_pb.NewSequenceStep(**_minted({"step_order": 1, "is_active": True} | fields))


def new_suppression(**fields: Any) -> suppression_pb.NewSuppression:
    """A right suppression."""
    return suppression_pb.NewSuppression(**_minted({"address": f"{uuid4().hex}@Example.com"} | fields))


def new_message(**fields: Any) -> inbox_pb.NewInboxMessage:
    """A right reference to an imported message."""
    return inbox_pb.NewInboxMessage(
        **_minted(
            {"mailbox": "Us@Sender.example", "direction": inbox_pb.MESSAGE_DIRECTION_INBOUND}
            | {"message_id": "<a@b.example>", "thread_id": "<root@b.example>", "sender": "Ada <ada@example.com>"}
            | {"subject": "Hi", "content_storage_key": f"k/{uuid4()}", "fingerprint": uuid4().hex * 2}
            | fields
        )
    )


def inbox_request(
    tenant: UUID, *messages: inbox_pb.NewInboxMessage, claim_s: float = 3600
) -> inbox_pb.BatchCreateInboxMessagesRequest:
    """A batch create of references."""
    return inbox_pb.BatchCreateInboxMessagesRequest(
        tenant_id=str(tenant), messages=messages, content_claim_by=ahead(claim_s), content_generation=1
    )


async def owed(db: Database, tenant: UUID) -> list[tuple[str, str, Any]]:
    """What the outbox holds for the tenant: (destination, kind, payload), oldest first."""
    async with db.tenant(tenant) as connection:
        found = await connection.fetch(
            "SELECT destination, kind, payload FROM outbox WHERE tenant_id = $1 ORDER BY created_at, kind", tenant
        )
    return [(row["destination"], row["kind"], json.loads(row["payload"])) for row in found]


@dataclass
class CampaignScene:
    """A campaign with one step, its mailbox and template, and its leads."""

    campaign: str
    step: str
    mailbox: str
    template: str
    leads: list[str]


async def set_scene(oltp: TierClient, tenant: UUID, leads: int = 2, *, start: bool = True) -> CampaignScene:
    """Create all that a campaign needs, through the services; started, unless it is not to be."""
    audience = uuid4().hex
    mailbox, template, campaign = new_account(), new_template(), new_campaign(audience_list=audience)
    step = new_step(campaign_id=campaign.id, email_account_id=mailbox.id, template_id=template.id)
    people = [new_lead(list=audience) for _ in range(leads)]
    named: dict[str, Any] = {"tenant_id": str(tenant)}
    channel = oltp.channel
    await oltp.call(
        EmailAccountServiceStub(channel).CreateEmailAccount,
        account_pb.CreateEmailAccountRequest(**named, email_account=mailbox),
    )
    await oltp.call(
        TemplateServiceStub(channel).CreateTemplate, template_pb.CreateTemplateRequest(**named, template=template)
    )
    campaigns = CampaignServiceStub(channel)
    await oltp.call(campaigns.CreateCampaign, campaign_pb.CreateCampaignRequest(**named, campaign=campaign))
    await oltp.call(
        SequenceStepServiceStub(channel).CreateSequenceStep,
        step_pb.CreateSequenceStepRequest(**named, sequence_step=step),
    )
    if people:
        await oltp.call(
            LeadServiceStub(channel).BatchCreateLeads, lead_pb.BatchCreateLeadsRequest(**named, leads=people)
        )
    if start:
        request = campaign_pb.StartCampaignRequest(**named, campaign_id=campaign.id, request_id=str(uuid4()))
        await oltp.call(campaigns.StartCampaign, request)
    return CampaignScene(campaign.id, step.id, mailbox.id, template.id, sorted(p.id for p in people))


async def write_emails(oltp: TierClient, tenant: UUID, scene: CampaignScene, leads: list[str]) -> list[str]:
    """The campaign's emails to these leads; their ids."""
    emails = [
        new_email(campaign_id=scene.campaign, step_id=scene.step, email_account_id=scene.mailbox, lead_id=lead)
        for lead in leads
    ]
    reply = await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, create_request(tenant, *emails))
    return [result.email.id for result in reply.results]


async def send(oltp: TierClient, tenant: UUID, email_id: str, outcome: Any = pb.ATTEMPT_OUTCOME_SENT) -> None:
    """Carry one email through its first attempt."""
    stub = EmailServiceStub(oltp.channel)
    claim = pb.StartAttempt(request_id=str(uuid4()), email_id=email_id)
    await oltp.call(stub.BatchStartAttempts, pb.BatchStartAttemptsRequest(tenant_id=str(tenant), attempts=[claim]))
    told = pb.RecordOutcome(
        request_id=str(uuid4()), email_id=email_id, attempt=1, outcome=outcome, finished_at=ahead(0)
    )
    await oltp.call(stub.BatchRecordOutcomes, pb.BatchRecordOutcomesRequest(tenant_id=str(tenant), outcomes=[told]))


async def tell(oltp: TierClient, tenant: UUID, email_id: str, *kinds: Any) -> None:
    """Record an event of each kind on an email."""
    events = [
        pb.EmailEvent(email_id=email_id, kind=kind, provider_event_id=str(uuid4()), occurred_at=ahead(0))
        for kind in kinds
    ]
    request = pb.BatchRecordEventsRequest(tenant_id=str(tenant), events=events)
    await oltp.call(EmailServiceStub(oltp.channel).BatchRecordEvents, request)


async def refuse_others(oltp: TierClient, method: Any, request: Any, stranger: UUID) -> None:
    """Assert that the call is refused without a token, and with another tenant's."""
    ways: list[tuple[dict[str, Any], grpc.StatusCode]] = [
        ({"anonymous": True}, grpc.StatusCode.UNAUTHENTICATED),
        ({"tenant": stranger}, grpc.StatusCode.PERMISSION_DENIED),
    ]
    for how, code in ways:
        with pytest.raises(Refused) as refused:
            await oltp.call(method, request, **how)
        assert refused.value.answer.code is code
