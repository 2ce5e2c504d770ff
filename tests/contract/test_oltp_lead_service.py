"""LeadService: every method, by its contract: the people a tenant writes to."""

from __future__ import annotations

from typing import Any

from services.oltp.tests.rows import new_lead
from tests.contract.cases import Batch, Case, Mutation, equal
from tests.contract.resources import Resource, ResourceContract, standard, unknown_tenant
from tests.contract.wire import World

from penguin.oltp.v1 import lead_service_pb2 as pb


async def new(world: World) -> Any:
    return new_lead()


async def three_new(world: World) -> Any:
    leads = [new_lead() for _ in range(3)]
    return pb.BatchCreateLeadsRequest(tenant_id=str(world.tenant), leads=leads)


def check_created(request: Any, reply: Any) -> None:
    assert [r.lead.id for r in reply.results] == [lead.id for lead in request.leads]
    assert {r.lead.tenant_id for r in reply.results} == {request.tenant_id}


def same_id(items: Any) -> None:
    items[1].id = items[0].id


RESOURCE = Resource(
    pb,
    "Lead",
    "Leads",
    new,
    bad=("email", lambda item: setattr(item, "email", "x")),
    update={"first_name": "Eva", "company": "Other"},
    refilter=lambda r: setattr(r, "list", "spring"),
)


class TestLeadService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = (
        *standard(RESOURCE),
        Case(
            "BatchCreateLeads",
            three_new,
            check_created,
            ("leads[1].email", lambda r: setattr(r.leads[1], "email", "x")),
            unknown_tenant,
            stranger=lambda reply: equal([r.WhichOneof("outcome") for r in reply.results], ["lead"] * 3),
            mutation=Mutation(RESOURCE.listed, vary=lambda r: setattr(r.leads[0], "first_name", "Eva")),
            batch=Batch("leads", same_id, "ALREADY_EXISTS"),
        ),
    )
