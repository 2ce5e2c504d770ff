"""Rows and requests that OLTP's tests begin with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import company_service_pb2 as company_pb
from penguin.oltp.v1 import domain_service_pb2 as domain_pb
from penguin.oltp.v1 import email_account_service_pb2 as account_pb
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import sequence_step_service_pb2 as step_pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1 import user_service_pb2 as user_pb
from penguin_chassis.pool import Database


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
