"""DomainService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import domain_service_pb2 as pb
from penguin.oltp.v1 import domain_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import domains_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.domains import DomainStore


class DomainServicer(domain_service_pb2_grpc.DomainServiceServicer):
    """The sending domains."""

    def __init__(self, db: Database) -> None:
        self._domains = DomainStore(db)

    async def CreateDomain(self, request: pb.CreateDomainRequest, context: Any) -> pb.CreateDomainResponse:
        at = now()
        domain = wire.new_domain(UUID(request.tenant_id), request.domain, at)
        created = await self._domains.create(step_of(request, request.domain, at=at), domain)
        return pb.CreateDomainResponse(domain=wire.domain(created))

    async def GetDomain(self, request: pb.GetDomainRequest, context: Any) -> pb.GetDomainResponse:
        found = await self._domains.get(UUID(request.tenant_id), UUID(request.domain_id))
        return pb.GetDomainResponse(domain=wire.domain(found))

    async def ListDomains(self, request: pb.ListDomainsRequest, context: Any) -> pb.ListDomainsResponse:
        page = Page(request)
        found = await self._domains.list_page(UUID(request.tenant_id), page.after, page.limit)
        return pb.ListDomainsResponse(domains=map(wire.domain, page.shown(found)), next_page_token=page.next(found))

    async def UpdateDomain(self, request: pb.UpdateDomainRequest, context: Any) -> pb.UpdateDomainResponse:
        changes = wire.changed_domain(request)
        updated = await self._domains.update(step_of(request), UUID(request.domain_id), request.etag, changes)
        return pb.UpdateDomainResponse(domain=wire.domain(updated))

    async def DeleteDomain(self, request: pb.DeleteDomainRequest, context: Any) -> pb.DeleteDomainResponse:
        await self._domains.delete(step_of(request), UUID(request.domain_id), request.etag)
        return pb.DeleteDomainResponse()
