"""TenantService: creating and listing for the platform, reading and changing for the tenant itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from services.oltp.tests.rows import new_tenant, refuse_others

from penguin.common.v1 import mutation_pb2
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import company_service_pb2 as company_pb
from penguin.oltp.v1 import tenant_service_pb2 as pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.company_service_pb2_grpc import CompanyServiceStub
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin_orchestrator import keys
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(oltp: TierClient) -> TenantServiceStub:
    return TenantServiceStub(oltp.channel)


async def create(oltp: TierClient, stub: TenantServiceStub, item: pb.NewTenant, **how: Any) -> pb.Tenant:
    """Create a tenant as the platform."""
    reply = await oltp.call(stub.CreateTenant, pb.CreateTenantRequest(tenant=item), **how)
    tenant: pb.Tenant = reply.tenant
    return tenant


def updating(tenant_id: str, **fields: Any) -> pb.UpdateTenantRequest:
    """An update of the policy."""
    update = pb.TenantUpdate(unknown_outcome_policy=pb.UNKNOWN_OUTCOME_POLICY_RESEND)
    mask = FieldMask(paths=["unknown_outcome_policy"])
    right: dict[str, Any] = {"tenant_id": tenant_id, "request_id": str(uuid4()), "tenant": update, "update_mask": mask}
    return pb.UpdateTenantRequest(**(right | fields))


async def test_a_tenant_begins_active_and_holds_what_nobody_knows(oltp: TierClient, stub: TenantServiceStub) -> None:
    item = new_tenant()
    created = await create(oltp, stub, item)
    assert (created.id, created.name, created.etag) == (item.id, "Acme", "1")
    assert (created.status, created.unknown_outcome_policy) == (
        pb.TENANT_STATUS_ACTIVE,
        pb.UNKNOWN_OUTCOME_POLICY_HOLD,
    )
    assert (await oltp.call(stub.GetTenant, pb.GetTenantRequest(tenant_id=item.id))).tenant == created


async def test_a_repeat_names_the_first_whatever_id_it_mints(oltp: TierClient, stub: TenantServiceStub) -> None:
    item = new_tenant()
    first = await create(oltp, stub, item)
    again = new_tenant(request_id=item.request_id)
    assert await create(oltp, stub, again) == first
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.GetTenant, pb.GetTenantRequest(tenant_id=again.id))
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(Refused) as refused:
        await create(oltp, stub, new_tenant(request_id=item.request_id, name="Other"))
    assert refused.value.answer.reason == "REQUEST_ID_REUSED"
    with pytest.raises(Refused) as refused:
        await create(oltp, stub, new_tenant(id=item.id))
    assert refused.value.answer.metadata == {"resource": "tenant", "field": "id"}


async def test_the_platform_lists_all_in_pages(oltp: TierClient, stub: TenantServiceStub) -> None:
    made = {(await create(oltp, stub, new_tenant())).id for _ in range(3)}
    seen: list[str] = []
    token = ""
    while True:
        page = await oltp.call(stub.ListTenants, pb.ListTenantsRequest(page_size=2, page_token=token))
        seen += [each.id for each in page.tenants]
        token = page.next_page_token
        if not token:
            break
    assert made <= set(seen)
    assert seen == sorted(set(seen))


async def test_creating_and_listing_are_the_platforms(oltp: TierClient, stub: TenantServiceStub, tenant: UUID) -> None:
    own = oltp.tokens.token("oltp", tenant=tenant, scopes=["tenants.write", "tenants.read"])
    listing = oltp.tokens.token(
        "oltp", scopes=["tenants.write"], platform=True, methods=["/penguin.oltp.v1.TenantService/ListTenants"]
    )
    for method, request, token, code in [
        (stub.CreateTenant, pb.CreateTenantRequest(tenant=new_tenant()), own, grpc.StatusCode.PERMISSION_DENIED),
        (stub.CreateTenant, pb.CreateTenantRequest(tenant=new_tenant()), listing, grpc.StatusCode.PERMISSION_DENIED),
        (stub.ListTenants, pb.ListTenantsRequest(), own, grpc.StatusCode.PERMISSION_DENIED),
        (stub.ListTenants, pb.ListTenantsRequest(), "", grpc.StatusCode.UNAUTHENTICATED),
        (stub.CreateTenant, pb.CreateTenantRequest(tenant=new_tenant()), "", grpc.StatusCode.UNAUTHENTICATED),
    ]:
        with pytest.raises(Refused) as refused:
            await oltp.call(method, request, token=token or None, anonymous=not token)
        assert refused.value.answer.code is code


async def test_a_tenant_changes_itself_and_nobody_else(
    oltp: TierClient, stub: TenantServiceStub, tenant: UUID, stranger: UUID
) -> None:
    request = updating(str(tenant), etag="1")
    updated = (await oltp.call(stub.UpdateTenant, request)).tenant
    assert (updated.unknown_outcome_policy, updated.etag) == (pb.UNKNOWN_OUTCOME_POLICY_RESEND, "2")
    assert (await oltp.call(stub.UpdateTenant, request)).tenant == updated
    wrong: list[tuple[pb.UpdateTenantRequest, dict[str, Any], str]] = [
        (updating(str(tenant), etag="1"), {}, "ETAG_MISMATCH"),
        (updating(str(tenant), update_mask=FieldMask(paths=["status"])), {}, "INVALID_UPDATE_MASK"),
        (updating(str(tenant), update_mask=FieldMask(paths=["name"])), {}, "INVALID_FIELD"),
        (updating(str(tenant)), {"tenant": stranger}, "TENANT_MISMATCH"),
        (updating(str(tenant)), {"anonymous": True}, "TOKEN_MISSING"),
        (updating(str(uuid4())), {}, "NOT_FOUND"),
    ]
    for asked, how, reason in wrong:
        with pytest.raises(Refused) as refused:
            await oltp.call(stub.UpdateTenant, asked, **how)
        assert refused.value.answer.reason == reason
    await refuse_others(oltp, stub.GetTenant, pb.GetTenantRequest(tenant_id=str(tenant)), stranger)


async def test_bad_fields_are_named(oltp: TierClient, stub: TenantServiceStub) -> None:
    with pytest.raises(Refused) as refused:
        await create(oltp, stub, new_tenant(name="", id="x"))
    assert set(refused.value.answer.fields) == {"tenant.name", "tenant.id"}
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.ListTenants, pb.ListTenantsRequest(page_size=-1))
    assert refused.value.answer.fields == ["page_size"]
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.GetTenant, pb.GetTenantRequest())
    assert refused.value.answer.fields == ["tenant_id"]


def saga_step(saga: str, operation: Any, name: str = "create") -> mutation_pb2.SagaStep:
    return mutation_pb2.SagaStep(saga_id=saga, step=name, operation=operation)


ACTION, COMPENSATION = mutation_pb2.STEP_OPERATION_ACTION, mutation_pb2.STEP_OPERATION_COMPENSATION


async def test_a_creation_is_undone_by_its_own_saga_and_never_done_after(
    oltp: TierClient, stub: TenantServiceStub
) -> None:
    item, saga = new_tenant(), str(uuid4())

    def asked(operation: Any, saga: str = saga) -> pb.CreateTenantRequest:
        return pb.CreateTenantRequest(tenant=item, saga_step=saga_step(saga, operation))

    get = pb.GetTenantRequest(tenant_id=item.id)
    await oltp.call(stub.CreateTenant, asked(ACTION))
    # Another saga, which added nothing, takes nothing away.
    await oltp.call(stub.CreateTenant, asked(COMPENSATION, str(uuid4())))
    assert (await oltp.call(stub.GetTenant, get)).tenant.id == item.id
    for _ in range(2):
        await oltp.call(stub.CreateTenant, asked(COMPENSATION))
    for late in (asked(ACTION), None):
        with pytest.raises(Refused) as refused:
            await (oltp.call(stub.CreateTenant, late) if late else oltp.call(stub.GetTenant, get))
        assert refused.value.answer.reason == ("SAGA_COMPENSATED" if late else "NOT_FOUND")


async def test_a_creation_that_was_refused_for_good_is_not_made_by_a_late_copy(
    oltp: TierClient, stub: TenantServiceStub
) -> None:
    item, first, second = new_tenant(), saga_step(str(uuid4()), ACTION), saga_step(str(uuid4()), ACTION)
    await oltp.call(stub.CreateTenant, pb.CreateTenantRequest(tenant=item, saga_step=first))
    second.refusal_stands = True
    other = pb.CreateTenantRequest(tenant=new_tenant(id=item.id), saga_step=second)
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.CreateTenant, other)
    # The first is undone, and its id is free: who was told that it is taken does not get it behind its back.
    undo = saga_step(first.saga_id, COMPENSATION)
    await oltp.call(stub.CreateTenant, pb.CreateTenantRequest(tenant=item, saga_step=undo))
    with pytest.raises(Refused) as late:
        await oltp.call(stub.CreateTenant, other)
    assert (late.value.answer, late.value.answer.reason) == (refused.value.answer, "ALREADY_EXISTS")


async def test_a_tenant_that_has_come_to_have_something_is_not_removed(
    oltp: TierClient, stub: TenantServiceStub
) -> None:
    item, saga = new_tenant(), str(uuid4())
    await oltp.call(stub.CreateTenant, pb.CreateTenantRequest(tenant=item, saga_step=saga_step(saga, ACTION)))
    company = company_pb.NewCompany(request_id=str(uuid4()), id=str(uuid4()), name="c")
    await oltp.call(
        CompanyServiceStub(oltp.channel).CreateCompany,
        company_pb.CreateCompanyRequest(tenant_id=item.id, company=company),
    )
    undo = pb.CreateTenantRequest(tenant=item, saga_step=saga_step(saga, COMPENSATION))
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.CreateTenant, undo)
    assert refused.value.answer.reason == "STILL_REFERENCED"


async def test_closing_is_said_once_and_taken_back_by_what_said_it(oltp: TierClient, stub: TenantServiceStub) -> None:
    created = await create(oltp, stub, new_tenant())
    first, second = str(uuid4()), str(uuid4())

    async def close(saga: str, operation: Any) -> Any:
        request = pb.CloseTenantRequest(
            tenant_id=created.id, request_id=str(uuid4()), saga_step=saga_step(saga, operation, "status")
        )
        return (await oltp.call(stub.CloseTenant, request)).tenant.status

    assert await close(first, ACTION) == pb.TENANT_STATUS_CLOSED
    assert await close(second, ACTION) == pb.TENANT_STATUS_CLOSED
    assert await close(second, COMPENSATION) == pb.TENANT_STATUS_CLOSED
    assert await close(first, COMPENSATION) == pb.TENANT_STATUS_ACTIVE


async def test_what_runs_when_its_tenant_is_closed_is_paused(oltp: TierClient, stub: TenantServiceStub) -> None:
    created, campaigns = await create(oltp, stub, new_tenant()), CampaignServiceStub(oltp.channel)
    running, draft = str(keys.new_id()), str(keys.new_id())
    for each in (running, draft):
        item = campaign_pb.NewCampaign(id=each, request_id=str(uuid4()), name="c", audience_list="all")
        await oltp.call(
            campaigns.CreateCampaign, campaign_pb.CreateCampaignRequest(tenant_id=created.id, campaign=item)
        )
    start = campaign_pb.StartCampaignRequest(tenant_id=created.id, request_id=str(uuid4()), campaign_id=running)
    await oltp.call(campaigns.StartCampaign, start)
    await oltp.call(stub.CloseTenant, pb.CloseTenantRequest(tenant_id=created.id, request_id=str(uuid4())))
    listed = await oltp.call(campaigns.ListCampaigns, campaign_pb.ListCampaignsRequest(tenant_id=created.id))
    assert {each.id: each.status for each in listed.campaigns} == {
        running: campaign_pb.CAMPAIGN_STATUS_PAUSED,
        draft: campaign_pb.CAMPAIGN_STATUS_DRAFT,
    }
