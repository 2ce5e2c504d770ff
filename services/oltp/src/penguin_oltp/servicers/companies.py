"""CompanyService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import company_service_pb2 as pb
from penguin.oltp.v1 import company_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import companies_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.companies import CompanyStore


class CompanyServicer(company_service_pb2_grpc.CompanyServiceServicer):
    """The organisations that campaigns are run for."""

    def __init__(self, db: Database) -> None:
        self._companies = CompanyStore(db)

    async def CreateCompany(self, request: pb.CreateCompanyRequest, context: Any) -> pb.CreateCompanyResponse:
        at = now()
        company = wire.new_company(UUID(request.tenant_id), request.company, at)
        created = await self._companies.create(step_of(request, request.company, at=at), company)
        return pb.CreateCompanyResponse(company=wire.company(created))

    async def GetCompany(self, request: pb.GetCompanyRequest, context: Any) -> pb.GetCompanyResponse:
        found = await self._companies.get(UUID(request.tenant_id), UUID(request.company_id))
        return pb.GetCompanyResponse(company=wire.company(found))

    async def ListCompanies(self, request: pb.ListCompaniesRequest, context: Any) -> pb.ListCompaniesResponse:
        page = Page(request)
        found = await self._companies.list_page(UUID(request.tenant_id), page.after, page.limit)
        return pb.ListCompaniesResponse(
            companies=map(wire.company, page.shown(found)), next_page_token=page.next(found)
        )

    async def UpdateCompany(self, request: pb.UpdateCompanyRequest, context: Any) -> pb.UpdateCompanyResponse:
        changes = wire.changed_company(request)
        updated = await self._companies.update(step_of(request), UUID(request.company_id), request.etag, changes)
        return pb.UpdateCompanyResponse(company=wire.company(updated))

    async def DeleteCompany(self, request: pb.DeleteCompanyRequest, context: Any) -> pb.DeleteCompanyResponse:
        await self._companies.delete(step_of(request), UUID(request.company_id), request.etag)
        return pb.DeleteCompanyResponse()
