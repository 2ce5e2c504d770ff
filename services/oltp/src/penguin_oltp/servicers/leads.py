"""LeadService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import lead_service_pb2 as pb
from penguin.oltp.v1 import lead_service_pb2_grpc
from penguin_chassis.mutations import gate_of, item_steps, now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import leads_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.leads import LeadStore


class LeadServicer(lead_service_pb2_grpc.LeadServiceServicer):
    """The people a tenant writes to."""

    def __init__(self, db: Database) -> None:
        self._leads = LeadStore(db)

    async def CreateLead(self, request: pb.CreateLeadRequest, context: Any) -> pb.CreateLeadResponse:
        at = now()
        lead = wire.new_lead(UUID(request.tenant_id), request.lead, at)
        created = await self._leads.create(step_of(request, request.lead, at=at), lead)
        return pb.CreateLeadResponse(lead=wire.lead(created))

    async def GetLead(self, request: pb.GetLeadRequest, context: Any) -> pb.GetLeadResponse:
        found = await self._leads.get(UUID(request.tenant_id), UUID(request.lead_id))
        return pb.GetLeadResponse(lead=wire.lead(found))

    async def ListLeads(self, request: pb.ListLeadsRequest, context: Any) -> pb.ListLeadsResponse:
        page = Page(request)
        found = await self._leads.list_page(
            UUID(request.tenant_id), page.after, page.limit, audience=request.list, email=request.email
        )
        return pb.ListLeadsResponse(leads=map(wire.lead, page.shown(found)), next_page_token=page.next(found))

    async def UpdateLead(self, request: pb.UpdateLeadRequest, context: Any) -> pb.UpdateLeadResponse:
        changes = wire.changed_lead(request)
        updated = await self._leads.update(step_of(request), UUID(request.lead_id), request.etag, changes)
        return pb.UpdateLeadResponse(lead=wire.lead(updated))

    async def DeleteLead(self, request: pb.DeleteLeadRequest, context: Any) -> pb.DeleteLeadResponse:
        await self._leads.delete(step_of(request), UUID(request.lead_id), request.etag)
        return pb.DeleteLeadResponse()

    async def BatchCreateLeads(self, request: pb.BatchCreateLeadsRequest, context: Any) -> pb.BatchCreateLeadsResponse:
        at, tenant_id = now(), UUID(request.tenant_id)
        steps = item_steps(request, request.leads, at=at)
        leads = [wire.new_lead(tenant_id, item, at) for item in request.leads]
        items = list(zip(steps, leads, strict=True))
        answers = await self._leads.create_batch(tenant_id, items, gate=gate_of(request, at=at))
        return pb.BatchCreateLeadsResponse(results=map(wire.created, answers))
