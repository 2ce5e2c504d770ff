"""TenantService: every method, by its contract: the customers of the platform."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import grpc
from services.oltp.tests.rows import new_tenant
from tests.contract.cases import Case, Listing, Mutation, equal
from tests.contract.harness import ServiceContract
from tests.contract.resources import unknown_tenant
from tests.contract.wire import World

from penguin.oltp.v1 import tenant_service_pb2 as pb

SERVICE = "penguin.oltp.v1.TenantService"


async def stored(world: World, tenant_id: str) -> Any:
    """The tenant, or nothing."""
    try:
        return await world.call(f"{SERVICE}/GetTenant", pb.GetTenantRequest(tenant_id=tenant_id))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return None


async def new(world: World) -> Any:
    return pb.CreateTenantRequest(tenant=new_tenant())


async def get(world: World) -> Any:
    return pb.GetTenantRequest(tenant_id=str(world.tenant))


async def list_five(world: World) -> Any:
    for _ in range(3):
        await world.call(f"{SERVICE}/CreateTenant", await new(world))
    return pb.ListTenantsRequest()


def check_list(request: Any, reply: Any) -> None:
    ids = [tenant.id for tenant in reply.tenants]
    assert len(ids) >= 5
    assert ids == sorted(ids)


async def rename(world: World) -> Any:
    request = pb.UpdateTenantRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), tenant=pb.TenantUpdate(name="Renamed")
    )
    request.update_mask.paths.append("name")
    return request


async def close(world: World) -> Any:
    return pb.CloseTenantRequest(tenant_id=str(world.tenant), request_id=str(uuid4()))


class TestTenantService(ServiceContract):
    service = SERVICE
    tiers = ("oltp",)
    cases = (
        Case(
            "CreateTenant",
            new,
            lambda request, reply: equal((reply.tenant.id, reply.tenant.name), (request.tenant.id, "Acme")),
            ("tenant.name", lambda r: r.tenant.ClearField("name")),
            "it names nothing that could be absent",
            mutation=Mutation(
                lambda world, request: stored(world, request.tenant.id),
                vary=lambda r: setattr(r.tenant, "name", "Other"),
            ),
        ),
        Case(
            "GetTenant",
            get,
            lambda request, reply: equal(reply.tenant.id, request.tenant_id),
            ("tenant_id", lambda r: setattr(r, "tenant_id", "x")),
            unknown_tenant,
            stranger=lambda reply: equal(reply.tenant.name, "Contract"),  # its own
        ),
        Case(
            "ListTenants",
            list_five,
            check_list,
            ("page_size", lambda r: setattr(r, "page_size", 1001)),
            "a list of nothing is empty",
            listing=Listing("tenants", 5),
        ),
        Case(
            "UpdateTenant",
            rename,
            lambda request, reply: equal((reply.tenant.id, reply.tenant.name), (request.tenant_id, "Renamed")),
            ("update_mask", lambda r: r.ClearField("update_mask")),
            unknown_tenant,
            stranger=lambda reply: equal(reply.tenant.name, "Renamed"),  # its own
            mutation=Mutation(
                lambda world, request: stored(world, request.tenant_id),
                vary=lambda r: setattr(r.tenant, "name", "Other"),
            ),
        ),
        Case(
            "CloseTenant",
            close,
            lambda request, reply: equal(
                (reply.tenant.id, reply.tenant.status), (request.tenant_id, pb.TENANT_STATUS_CLOSED)
            ),
            ("tenant_id", lambda r: setattr(r, "tenant_id", "x")),
            unknown_tenant,
            mutation=Mutation(
                lambda world, request: stored(world, request.tenant_id),
                # Its request names nothing else that could differ: another tenant's is another request.
                vary=lambda r: setattr(r, "tenant_id", r.tenant_id.upper()),
            ),
        ),
    )
