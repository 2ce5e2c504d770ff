"""TenantService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import tenant_service_pb2 as pb
from penguin.oltp.v1 import tenant_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import tenants_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.tenants import TenantStore


class TenantServicer(tenant_service_pb2_grpc.TenantServiceServicer):
    """The customers of the platform."""

    def __init__(self, db: Database) -> None:
        self._tenants = TenantStore(db)

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.CreateTenantResponse:
        at = now()
        step = step_of(request, request.tenant, at=at)
        created = await self._tenants.create(step, wire.new_tenant(request.tenant, at))
        return pb.CreateTenantResponse(tenant=wire.tenant(created))

    async def GetTenant(self, request: pb.GetTenantRequest, context: Any) -> pb.GetTenantResponse:
        return pb.GetTenantResponse(tenant=wire.tenant(await self._tenants.get(UUID(request.tenant_id))))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        page = Page(request)
        found = await self._tenants.list_page(page.after, page.limit)
        return pb.ListTenantsResponse(tenants=map(wire.tenant, page.shown(found)), next_page_token=page.next(found))

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Any) -> pb.UpdateTenantResponse:
        changes = wire.changed_tenant(request)
        updated = await self._tenants.update(step_of(request), request.etag, changes)
        return pb.UpdateTenantResponse(tenant=wire.tenant(updated))

    async def CloseTenant(self, request: pb.CloseTenantRequest, context: Any) -> pb.CloseTenantResponse:
        return pb.CloseTenantResponse(tenant=wire.tenant(await self._tenants.close(step_of(request))))
