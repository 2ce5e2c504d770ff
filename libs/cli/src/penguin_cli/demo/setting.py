"""Brings into being what a demo campaign stands on: two tenants with what tenants have, leads, mailbox, template."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from penguin.oltp.v1 import company_service_pb2 as company_pb
from penguin.oltp.v1 import domain_service_pb2 as domain_pb
from penguin.oltp.v1 import user_service_pb2 as user_pb
from penguin.oltp.v1.company_service_pb2_grpc import CompanyServiceStub
from penguin.oltp.v1.domain_service_pb2_grpc import DomainServiceStub
from penguin.oltp.v1.user_service_pb2_grpc import UserServiceStub
from penguin.queue.v1 import schedule_service_pb2 as schedule_pb
from penguin.queue.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from penguin_cli.demo import data
from penguin_cli.lookups import DEADLINE_S
from penguin_cli.surroundings import CommandError
from penguin_orchestrator import keys
from penguin_orchestrator.platform import Penguin

AUDIENCE = "demo"
_LEADS_OF_B = 5


@dataclass(frozen=True)
class Setting:
    """One run's own tenants and what it sends with. The mailbox's address is of this run alone."""

    run: str
    tenant_a: UUID
    tenant_b: UUID
    mailbox: str
    campaign_id: UUID


async def onboard(penguin: Penguin, run: str) -> tuple[UUID, UUID]:
    """Two tenants, each with a company, a domain, a user and a mailbox."""
    tenants = [await penguin.tenants.onboard(f"{name} (demo {run})") for name in ("Northwind", "Tailspin")]
    for tenant_id, domain in zip(tenants, ("northwind", "tailspin"), strict=True):
        await _furnish(penguin, tenant_id, f"{domain}-{run}.example")
    return tenants[0], tenants[1]


async def _furnish(penguin: Penguin, tenant_id: UUID, domain: str) -> None:
    oltp, tenant = penguin.tiers["oltp"], str(tenant_id)
    company = company_pb.NewCompany(request_id=str(uuid4()), id=str(keys.new_id()), name=domain)
    user = user_pb.NewUser(
        request_id=str(uuid4()), id=str(keys.new_id()), email=f"owner@{domain}", display_name="Owner", roles=["owner"]
    )
    own = domain_pb.NewDomain(
        request_id=str(uuid4()), id=str(keys.new_id()), domain=domain, is_primary=True, company_id=company.id
    )
    for method, request in (
        (
            oltp.stub(CompanyServiceStub).CreateCompany,
            company_pb.CreateCompanyRequest(tenant_id=tenant, company=company),
        ),
        (oltp.stub(UserServiceStub).CreateUser, user_pb.CreateUserRequest(tenant_id=tenant, user=user)),
        (oltp.stub(DomainServiceStub).CreateDomain, domain_pb.CreateDomainRequest(tenant_id=tenant, domain=own)),
    ):
        await oltp.insist(method, request, deadline_s=DEADLINE_S)


async def load_leads(penguin: Penguin, tenant_id: UUID, other: UUID, count: int) -> None:
    """The first `count` shipped leads for one tenant, the last few for the other. Raises CommandError if any is refused."""
    for owner, file, wanted in (
        (tenant_id, data.leads(count), count),
        (other, data.leads(_LEADS_OF_B, last=True), _LEADS_OF_B),
    ):
        done = await penguin.leads.import_file(owner, file, AUDIENCE)
        if done.created != wanted:
            raise CommandError(f"only {done.created} of {wanted} leads were created: {done.reasons}")


async def prepare(penguin: Penguin, run: str, tenants: tuple[UUID, UUID]) -> Setting:
    """Mailbox, template with its attachment, and the campaign of the first tenant; the second has a mailbox too."""
    tenant_id, other = tenants
    mailbox = f"nora@northwind-{run}.example"
    mailbox_id = await penguin.tenants.add_mailbox(tenant_id, mailbox, "Nora Nørgaard")
    await penguin.tenants.add_mailbox(other, f"theo@tailspin-{run}.example", "Theo")
    template = data.template()
    template_id = await penguin.tenants.add_template(
        tenant_id, "First contact", subject=template.subject, text=template.text, html=template.html,
        attachments=[template.attachment],
    )  # fmt: skip
    campaign_id = await penguin.campaigns.create(
        tenant_id, f"First contact {run}", AUDIENCE, template_id=template_id, mailbox_id=mailbox_id
    )
    await _plan(penguin, tenant_id, run)
    return Setting(run, tenant_id, other, mailbox, campaign_id)


async def _plan(penguin: Penguin, tenant_id: UUID, run: str) -> None:
    """A schedule that rests: nobody has to wait for Monday, and another tenant is not to see it."""
    schedule = schedule_pb.Schedule(
        name=f"report-{run}",
        cron="0 7 * * MON",
        time_zone="Europe/Berlin",
        kind="demo.report",
        payload=b"{}",
        paused=True,
    )
    request = schedule_pb.PutScheduleRequest(tenant_id=str(tenant_id), request_id=str(uuid4()), schedule=schedule)
    queue = penguin.tiers["queue"]
    await queue.insist(queue.stub(ScheduleServiceStub).PutSchedule, request, deadline_s=DEADLINE_S)
