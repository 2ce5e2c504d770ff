"""LeadService beyond the standard methods: batches, and finding leads by audience and address."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.oltp.tests.rows import new_lead, refuse_others

from penguin.common.v1 import errors_pb2, mutation_pb2
from penguin.oltp.v1 import lead_service_pb2 as pb
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin_testkit.calling import Refused, TierClient


async def create(oltp: TierClient, tenant: UUID, *leads: pb.NewLead, **fields: Any) -> list[pb.CreateLeadResult]:
    """A batch create."""
    request = pb.BatchCreateLeadsRequest(tenant_id=str(tenant), leads=leads, **fields)
    return list((await oltp.call(LeadServiceStub(oltp.channel).BatchCreateLeads, request)).results)


async def test_a_batch_is_answered_item_by_item(oltp: TierClient, tenant: UUID) -> None:
    ada, bob = new_lead(email="Ada@Example.com"), new_lead()
    first = await create(oltp, tenant, ada, bob)
    assert [(r.lead.id, r.lead.email, r.lead.status) for r in first] == [
        (ada.id, "Ada@Example.com", pb.LEAD_STATUS_ACTIVE),
        (bob.id, bob.email, pb.LEAD_STATUS_ACTIVE),
    ]
    reused = new_lead(request_id=bob.request_id)
    elsewhere = new_lead(email="ada@example.com", list="autumn")
    second = await create(oltp, tenant, ada, new_lead(email="ADA@example.com"), reused, elsewhere)
    assert second[0] == first[0]
    assert [(r.error.reason, r.error.field) for r in second[1:3]] == [
        (errors_pb2.ERROR_REASON_ALREADY_EXISTS, "email"),
        (errors_pb2.ERROR_REASON_REQUEST_ID_REUSED, "request_id"),
    ]
    assert second[3].lead.id == elsewhere.id


async def test_an_item_named_twice_in_a_batch_is_made_once(oltp: TierClient, tenant: UUID) -> None:
    lead = new_lead()
    same_id, same_address, same_request = new_lead(id=lead.id), new_lead(email=lead.email.upper()), new_lead()
    same_request.request_id = lead.request_id
    results = await create(oltp, tenant, lead, same_id, same_address, same_request)
    assert [r.WhichOneof("outcome") for r in results] == ["lead", "error", "error", "error"]
    listed = await oltp.call(LeadServiceStub(oltp.channel).ListLeads, pb.ListLeadsRequest(tenant_id=str(tenant)))
    assert [each.id for each in listed.leads] == [lead.id]


async def test_a_refused_item_may_be_tried_again(oltp: TierClient, tenant: UUID) -> None:
    lead, rival = new_lead(), new_lead()
    rival.email = lead.email
    await create(oltp, tenant, lead)
    assert (await create(oltp, tenant, rival))[0].HasField("error")
    stub = LeadServiceStub(oltp.channel)
    await oltp.call(
        stub.DeleteLead, pb.DeleteLeadRequest(tenant_id=str(tenant), lead_id=lead.id, request_id=str(uuid4()))
    )
    assert (await create(oltp, tenant, rival))[0].lead.id == rival.id


async def test_a_batch_of_a_saga_is_barred_once_compensated(oltp: TierClient, tenant: UUID) -> None:
    lead = new_lead()
    step = mutation_pb2.SagaStep(saga_id=str(uuid4()), step="import", operation=mutation_pb2.STEP_OPERATION_ACTION)
    first = await create(oltp, tenant, lead, saga_step=step)
    assert await create(oltp, tenant, lead, saga_step=step) == first
    undo = mutation_pb2.SagaStep(
        saga_id=step.saga_id, step="import", operation=mutation_pb2.STEP_OPERATION_COMPENSATION
    )
    request = pb.DeleteLeadRequest(tenant_id=str(tenant), lead_id=lead.id, request_id=str(uuid4()), saga_step=undo)
    await oltp.call(LeadServiceStub(oltp.channel).DeleteLead, request)
    with pytest.raises(Refused) as refused:
        await create(oltp, tenant, lead, saga_step=step)
    assert refused.value.answer.reason == "SAGA_COMPENSATED"


async def test_leads_are_found_by_audience_and_by_address(oltp: TierClient, tenant: UUID) -> None:
    spring, autumn = new_lead(email="Ada@Example.com"), new_lead(email="ada@example.com", list="autumn")
    await create(oltp, tenant, spring, autumn, new_lead())
    stub = LeadServiceStub(oltp.channel)
    queries: list[tuple[dict[str, Any], list[str]]] = [
        ({"list": "autumn"}, [autumn.id]),
        ({"email": "aDa@example.com"}, sorted([spring.id, autumn.id])),
        ({"email": "ada@example.com", "list": "spring"}, [spring.id]),
        ({"email": "nobody@example.com"}, []),
    ]
    for fields, found in queries:
        listed = await oltp.call(stub.ListLeads, pb.ListLeadsRequest(tenant_id=str(tenant), **fields))
        assert [each.id for each in listed.leads] == found


async def test_bad_items_are_named_by_place_and_refused_to_others(
    oltp: TierClient, tenant: UUID, stranger: UUID
) -> None:
    with pytest.raises(Refused) as refused:
        await create(oltp, tenant, new_lead(), new_lead(email="nobody"))
    assert refused.value.answer.fields == ["leads[1].email"]
    with pytest.raises(Refused) as refused:
        await create(oltp, tenant)
    assert refused.value.answer.fields == ["leads"]
    with pytest.raises(Refused) as refused:
        await create(oltp, uuid4(), new_lead())
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
    request = pb.BatchCreateLeadsRequest(tenant_id=str(tenant), leads=[new_lead()])
    await refuse_others(oltp, LeadServiceStub(oltp.channel).BatchCreateLeads, request, stranger)
