"""SubjectService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1 import subject_service_pb2_grpc
from penguin_chassis import calls
from penguin_chassis.mutations import now, step_of
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_oltp.servicers import subjects_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.subjects import SubjectStore


class SubjectServicer(subject_service_pb2_grpc.SubjectServiceServicer):
    """People who are to be erased, and those who were."""

    def __init__(self, db: Database) -> None:
        self._subjects = SubjectStore(db)

    async def SuppressSubject(self, request: pb.SuppressSubjectRequest, context: Any) -> pb.SuppressSubjectResponse:
        done = await self._subjects.suppress(
            step_of(request), UUID(request.erasure_id), request.subject, request.subject_key, request.address.lower()
        )
        return pb.SuppressSubjectResponse(cancelled=done.cancelled, own=map(wire.mention, done.own))

    async def ListSubjectItems(self, request: pb.ListSubjectItemsRequest, context: Any) -> pb.ListSubjectItemsResponse:
        after = page_start(request, wire.place, None)
        size = page_size(request.page_size)
        page = await self._subjects.items(UUID(request.tenant_id), request.address.lower(), after, size)
        token = next_token(request, [page.after[0], str(page.after[1])]) if page.after is not None else ""
        return pb.ListSubjectItemsResponse(items=map(wire.item, page.items), next_page_token=token)

    async def RecordErasure(self, request: pb.RecordErasureRequest, context: Any) -> pb.RecordErasureResponse:
        at = now()
        recorded = await self._subjects.record(step_of(request, at=at), wire.new_erasure(request, at))
        return pb.RecordErasureResponse(erasure=wire.erasure(recorded))

    async def ListErasures(self, request: pb.ListErasuresRequest, context: Any) -> pb.ListErasuresResponse:
        page = Page(request)
        found = await self._subjects.list_page(UUID(request.tenant_id), page.after, page.limit)
        shown = wire.fitting(page.shown(found))
        token = page.next(found) if len(shown) == len(page.shown(found)) else page.token(UUID(shown[-1].id))
        return pb.ListErasuresResponse(erasures=shown, next_page_token=token)

    async def RecordExport(self, request: pb.RecordExportRequest, context: Any) -> pb.RecordExportResponse:
        at, call = now(), calls.current_call()
        export = wire.new_export(request, call.caller.actor if call else "", at)
        recorded = await self._subjects.record_export(step_of(request, at=at), export)
        return pb.RecordExportResponse(subject_export=wire.export(recorded))

    async def ListExports(self, request: pb.ListExportsRequest, context: Any) -> pb.ListExportsResponse:
        page = Page(request)
        found = await self._subjects.list_exports(UUID(request.tenant_id), page.after, page.limit, request.subject)
        return pb.ListExportsResponse(
            subject_exports=map(wire.export, page.shown(found)), next_page_token=page.next(found)
        )
