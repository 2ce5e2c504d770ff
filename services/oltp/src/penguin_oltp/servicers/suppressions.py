"""SuppressionService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import suppression_service_pb2 as pb
from penguin.oltp.v1 import suppression_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import suppressions_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.suppressions import SuppressionStore


class SuppressionServicer(suppression_service_pb2_grpc.SuppressionServiceServicer):
    """The addresses that must not be written to."""

    def __init__(self, db: Database) -> None:
        self._suppressions = SuppressionStore(db)

    async def CreateSuppression(
        self, request: pb.CreateSuppressionRequest, context: Any
    ) -> pb.CreateSuppressionResponse:
        at = now()
        suppression = wire.new_suppression(UUID(request.tenant_id), request.suppression, at)
        created = await self._suppressions.create(step_of(request, request.suppression, at=at), suppression)
        return pb.CreateSuppressionResponse(suppression=wire.suppression(created))

    async def GetSuppression(self, request: pb.GetSuppressionRequest, context: Any) -> pb.GetSuppressionResponse:
        found = await self._suppressions.get(UUID(request.tenant_id), UUID(request.suppression_id))
        return pb.GetSuppressionResponse(suppression=wire.suppression(found))

    async def ListSuppressions(self, request: pb.ListSuppressionsRequest, context: Any) -> pb.ListSuppressionsResponse:
        page = Page(request)
        found = await self._suppressions.list_page(UUID(request.tenant_id), page.after, page.limit)
        return pb.ListSuppressionsResponse(
            suppressions=map(wire.suppression, page.shown(found)), next_page_token=page.next(found)
        )

    async def DeleteSuppression(
        self, request: pb.DeleteSuppressionRequest, context: Any
    ) -> pb.DeleteSuppressionResponse:
        await self._suppressions.delete(step_of(request), UUID(request.suppression_id), request.etag)
        return pb.DeleteSuppressionResponse()
