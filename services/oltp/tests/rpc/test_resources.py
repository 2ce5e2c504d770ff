"""What single resources do beyond the standard methods: what they owe, begin with, and hold on to."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from services.oltp.tests.rows import (
    create_request,
    new_account,
    new_campaign,
    new_company,
    new_domain,
    new_email,
    new_step,
    new_suppression,
    new_template,
    owed,
    send,
    set_scene,
    write_emails,
)

from penguin.oltp.v1 import (
    campaign_service_pb2,
    company_service_pb2,
    domain_service_pb2,
    email_account_service_pb2,
    email_service_pb2,
    lead_service_pb2,
    sequence_step_service_pb2,
    suppression_service_pb2,
    template_service_pb2,
)
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.company_service_pb2_grpc import CompanyServiceStub
from penguin.oltp.v1.domain_service_pb2_grpc import DomainServiceStub
from penguin.oltp.v1.email_account_service_pb2_grpc import EmailAccountServiceStub
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.oltp.v1.sequence_step_service_pb2_grpc import SequenceStepServiceStub
from penguin.oltp.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient


async def reason_of(oltp: TierClient, method: Any, request: Any) -> str:
    """Why the call is refused."""
    with pytest.raises(Refused) as refused:
        await oltp.call(method, request)
    return refused.value.answer.reason


async def test_what_is_left_open_begins_as_the_contract_says(oltp: TierClient, tenant: UUID) -> None:
    named: dict[str, Any] = {"tenant_id": str(tenant)}
    channel = oltp.channel
    domain = await oltp.call(
        DomainServiceStub(channel).CreateDomain,
        domain_service_pb2.CreateDomainRequest(**named, domain=new_domain()),
    )
    assert domain.domain.verification_status == domain_service_pb2.DOMAIN_VERIFICATION_PENDING
    account = await oltp.call(
        EmailAccountServiceStub(channel).CreateEmailAccount,
        email_account_service_pb2.CreateEmailAccountRequest(**named, email_account=new_account()),
    )
    assert account.email_account.status == email_account_service_pb2.EMAIL_ACCOUNT_STATUS_ACTIVE
    suppression = await oltp.call(
        SuppressionServiceStub(channel).CreateSuppression,
        suppression_service_pb2.CreateSuppressionRequest(**named, suppression=new_suppression()),
    )
    assert suppression.suppression.reason == suppression_service_pb2.SUPPRESSION_REASON_MANUAL
    campaign = new_campaign()
    created = await oltp.call(
        CampaignServiceStub(channel).CreateCampaign,
        campaign_service_pb2.CreateCampaignRequest(**named, campaign=campaign),
    )
    assert created.campaign.status == campaign_service_pb2.CAMPAIGN_STATUS_DRAFT
    step = await oltp.call(
        SequenceStepServiceStub(channel).CreateSequenceStep,
        sequence_step_service_pb2.CreateSequenceStepRequest(**named, sequence_step=new_step(campaign_id=campaign.id)),
    )
    assert step.sequence_step.step_type == sequence_step_service_pb2.SEQUENCE_STEP_TYPE_EMAIL
    assert step.sequence_step.condition_type == sequence_step_service_pb2.STEP_CONDITION_ALWAYS


async def test_a_templates_content_is_claimed_replaced_and_deleted_through_the_outbox(
    oltp: TierClient, tenant: UUID, db: Database
) -> None:
    pb, stub = template_service_pb2, TemplateServiceStub(oltp.channel)
    item = new_template()
    create = pb.CreateTemplateRequest(tenant_id=str(tenant), template=item)
    for _ in range(2):
        created = (await oltp.call(stub.CreateTemplate, create)).template
    assert (created.content_storage_key, created.content_generation) == (item.content_storage_key, 3)
    named: dict[str, Any] = {"tenant_id": str(tenant), "template_id": item.id}
    new_key = f"k/{uuid4()}"
    rename = pb.UpdateTemplateRequest(
        **named,
        request_id=str(uuid4()),
        template=pb.TemplateUpdate(name="Other"),
        update_mask=FieldMask(paths=["name"]),
    )
    await oltp.call(stub.UpdateTemplate, rename)
    replace = pb.UpdateTemplateRequest(
        **named, request_id=str(uuid4()),
        template=pb.TemplateUpdate(content_storage_key=new_key, content_generation=4),
        update_mask=FieldMask(paths=["content_storage_key", "content_generation"]),
    )  # fmt: skip
    updated = (await oltp.call(stub.UpdateTemplate, replace)).template
    assert (updated.content_storage_key, updated.content_generation) == (new_key, 4)
    await oltp.call(stub.DeleteTemplate, pb.DeleteTemplateRequest(**named, request_id=str(uuid4())))
    assert [(kind, payload["storage_keys"]) for _, kind, payload in await owed(db, tenant)] == [
        ("claim_contents", [item.content_storage_key]),
        ("claim_contents", [new_key]),
        ("delete_contents", [item.content_storage_key]),
        ("delete_contents", [new_key]),
    ]


async def test_what_others_refer_to_stays(oltp: TierClient, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant, leads=1)
    await write_emails(oltp, tenant, scene, scene.leads)
    named: dict[str, Any] = {"tenant_id": str(tenant), "request_id": str(uuid4())}
    channel = oltp.channel
    for method, request in [
        (TemplateServiceStub(channel).DeleteTemplate,
         template_service_pb2.DeleteTemplateRequest(**named, template_id=scene.template)),
        (EmailAccountServiceStub(channel).DeleteEmailAccount,
         email_account_service_pb2.DeleteEmailAccountRequest(**named, email_account_id=scene.mailbox)),
        (SequenceStepServiceStub(channel).DeleteSequenceStep,
         sequence_step_service_pb2.DeleteSequenceStepRequest(**named, sequence_step_id=scene.step)),
        (LeadServiceStub(channel).DeleteLead,
         lead_service_pb2.DeleteLeadRequest(**named, lead_id=scene.leads[0])),
    ]:  # fmt: skip
        assert await reason_of(oltp, method, request) == "STILL_REFERENCED"


async def test_a_company_stays_while_a_domain_is_its_own(oltp: TierClient, tenant: UUID) -> None:
    named: dict[str, Any] = {"tenant_id": str(tenant)}
    channel = oltp.channel
    company = new_company()
    companies = CompanyServiceStub(channel)
    await oltp.call(companies.CreateCompany, company_service_pb2.CreateCompanyRequest(**named, company=company))
    domain = new_domain(company_id=company.id)
    domains = DomainServiceStub(channel)
    await oltp.call(domains.CreateDomain, domain_service_pb2.CreateDomainRequest(**named, domain=domain))
    delete = company_service_pb2.DeleteCompanyRequest(**named, company_id=company.id, request_id=str(uuid4()))
    assert await reason_of(oltp, companies.DeleteCompany, delete) == "STILL_REFERENCED"
    release = domain_service_pb2.UpdateDomainRequest(
        **named, domain_id=domain.id, request_id=str(uuid4()), domain=domain_service_pb2.DomainUpdate(),
        update_mask=FieldMask(paths=["company_id"]),
    )  # fmt: skip
    assert (await oltp.call(domains.UpdateDomain, release)).domain.company_id == ""
    await oltp.call(companies.DeleteCompany, delete)


async def test_a_mailbox_tells_what_it_sent_today(oltp: TierClient, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant, leads=2)
    first, _ = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, first)
    pb, stub = email_account_service_pb2, EmailAccountServiceStub(oltp.channel)
    named: dict[str, Any] = {"tenant_id": str(tenant)}
    got = await oltp.call(stub.GetEmailAccount, pb.GetEmailAccountRequest(**named, email_account_id=scene.mailbox))
    listed = await oltp.call(stub.ListEmailAccounts, pb.ListEmailAccountsRequest(**named))
    update = pb.UpdateEmailAccountRequest(
        **named, email_account_id=scene.mailbox, request_id=str(uuid4()),
        email_account=pb.EmailAccountUpdate(daily_limit=9), update_mask=FieldMask(paths=["daily_limit"]),
    )  # fmt: skip
    updated = await oltp.call(stub.UpdateEmailAccount, update)
    counts = [got.email_account.daily_count, listed.email_accounts[0].daily_count, updated.email_account.daily_count]
    assert counts == [1, 1, 1]


async def test_a_suppression_keeps_what_was_written_and_holds_for_any_case(oltp: TierClient, tenant: UUID) -> None:
    pb = suppression_service_pb2
    item = new_suppression(address="Ada@Example.COM")
    stub = SuppressionServiceStub(oltp.channel)
    created = await oltp.call(
        stub.CreateSuppression, pb.CreateSuppressionRequest(tenant_id=str(tenant), suppression=item)
    )
    assert created.suppression.address == "Ada@Example.COM"
    emails = EmailServiceStub(oltp.channel)
    email = new_email(recipient="aDA@example.com")
    await oltp.call(emails.BatchCreateEmails, create_request(tenant, email))
    await send(oltp, tenant, email.id)
    got = await oltp.call(emails.GetEmail, email_service_pb2.GetEmailRequest(tenant_id=str(tenant), email_id=email.id))
    assert got.email.status == email_service_pb2.EMAIL_STATUS_SUPPRESSED


async def test_steps_are_listed_by_campaign_and_their_numbers_are_its_own(oltp: TierClient, tenant: UUID) -> None:
    pb, stub = sequence_step_service_pb2, SequenceStepServiceStub(oltp.channel)
    scene, other = await set_scene(oltp, tenant, leads=0), await set_scene(oltp, tenant, leads=0)
    request = pb.ListSequenceStepsRequest(tenant_id=str(tenant), campaign_id=other.campaign)
    assert [s.id for s in (await oltp.call(stub.ListSequenceSteps, request)).sequence_steps] == [other.step]
    again = pb.CreateSequenceStepRequest(
        tenant_id=str(tenant), sequence_step=new_step(campaign_id=scene.campaign, step_order=1)
    )
    assert await reason_of(oltp, stub.CreateSequenceStep, again) == "ALREADY_EXISTS"


async def test_one_tenants_rows_are_no_references_of_anothers(oltp: TierClient, tenant: UUID, stranger: UUID) -> None:
    scene = await set_scene(oltp, tenant, leads=0)
    request = sequence_step_service_pb2.CreateSequenceStepRequest(
        tenant_id=str(stranger), sequence_step=new_step(campaign_id=scene.campaign)
    )
    stub = SequenceStepServiceStub(oltp.channel)
    assert await reason_of(oltp, stub.CreateSequenceStep, request) == "REFERENCE_MISSING"
