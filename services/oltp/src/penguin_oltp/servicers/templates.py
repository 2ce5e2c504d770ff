"""TemplateService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import template_service_pb2 as pb
from penguin.oltp.v1 import template_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import templates_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.templates import TemplateStore


class TemplateServicer(template_service_pb2_grpc.TemplateServiceServicer):
    """What campaigns are rendered from."""

    def __init__(self, db: Database) -> None:
        self._templates = TemplateStore(db)

    async def CreateTemplate(self, request: pb.CreateTemplateRequest, context: Any) -> pb.CreateTemplateResponse:
        at = now()
        template = wire.new_template(UUID(request.tenant_id), request.template, at)
        created = await self._templates.create(step_of(request, request.template, at=at), template)
        return pb.CreateTemplateResponse(template=wire.template(created))

    async def GetTemplate(self, request: pb.GetTemplateRequest, context: Any) -> pb.GetTemplateResponse:
        found = await self._templates.get(UUID(request.tenant_id), UUID(request.template_id))
        return pb.GetTemplateResponse(template=wire.template(found))

    async def ListTemplates(self, request: pb.ListTemplatesRequest, context: Any) -> pb.ListTemplatesResponse:
        page = Page(request)
        found = await self._templates.list_page(UUID(request.tenant_id), page.after, page.limit)
        return pb.ListTemplatesResponse(
            templates=map(wire.template, page.shown(found)), next_page_token=page.next(found)
        )

    async def UpdateTemplate(self, request: pb.UpdateTemplateRequest, context: Any) -> pb.UpdateTemplateResponse:
        changes = wire.changed_template(request)
        updated = await self._templates.update(step_of(request), UUID(request.template_id), request.etag, changes)
        return pb.UpdateTemplateResponse(template=wire.template(updated))

    async def DeleteTemplate(self, request: pb.DeleteTemplateRequest, context: Any) -> pb.DeleteTemplateResponse:
        await self._templates.delete(step_of(request), UUID(request.template_id), request.etag)
        return pb.DeleteTemplateResponse()
