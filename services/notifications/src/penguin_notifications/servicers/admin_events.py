"""AdminEventService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.notifications.v1 import admin_event_service_pb2 as pb
from penguin.notifications.v1 import admin_event_service_pb2_grpc
from penguin_chassis.calls import current_call
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_notifications.domain.pages import fitting
from penguin_notifications.servicers import admin_events_wire as wire
from penguin_notifications.servicers.newest import NEWEST, before, key
from penguin_notifications.store.admin_events import AdminEventStore


class AdminEventServicer(admin_event_service_pb2_grpc.AdminEventServiceServicer):
    """Curated events for the people who run the platform."""

    def __init__(self, db: Database) -> None:
        self._events = AdminEventStore(db)

    async def CreateAdminEvent(self, request: pb.CreateAdminEventRequest, context: Any) -> pb.CreateAdminEventResponse:
        raised = await self._events.raise_event(wire.step(request), wire.new_event(request))
        return pb.CreateAdminEventResponse(admin_event=wire.event(raised))

    async def GetAdminEvent(self, request: pb.GetAdminEventRequest, context: Any) -> pb.GetAdminEventResponse:
        found = await self._events.get(UUID(request.admin_event_id))
        return pb.GetAdminEventResponse(admin_event=wire.event(found))

    async def ListAdminEvents(self, request: pb.ListAdminEventsRequest, context: Any) -> pb.ListAdminEventsResponse:
        start, size = page_start(request, before, NEWEST), page_size(request.page_size)
        found = await self._events.list_newest(wire.wanted(request), start, size + 1)
        page = found[: fitting((e.weight for e in found), size)]
        token = next_token(request, key(page[-1].created_at, page[-1].id)) if len(found) > len(page) else ""
        return pb.ListAdminEventsResponse(admin_events=map(wire.event, page), next_page_token=token)

    async def ResolveAdminEvent(
        self, request: pb.ResolveAdminEventRequest, context: Any
    ) -> pb.ResolveAdminEventResponse:
        call = current_call()
        resolved_by = call.caller.actor if call else ""
        event_id = UUID(request.admin_event_id)
        resolved = await self._events.resolve(wire.step(request), event_id, resolved_by, request.resolution)
        return pb.ResolveAdminEventResponse(admin_event=wire.event(resolved))
