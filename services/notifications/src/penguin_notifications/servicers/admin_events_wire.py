"""Admin events between the wire and the domain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from penguin.notifications.v1 import admin_event_service_pb2 as pb
from penguin_chassis.barrier import Step
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.mutations import step_of
from penguin_chassis.wire import number, stamp, text, uuid_or_none, word
from penguin_notifications.domain.admin_events import (
    MAX_DETAILS_BYTES,
    PLATFORM,
    AdminEvent,
    EventFilter,
    NewAdminEvent,
)


def step(request: pb.CreateAdminEventRequest | pb.ResolveAdminEventRequest) -> Step:
    """The mutation's step: the platform's, whichever tenant the event concerns."""
    return replace(step_of(request), tenant_id=PLATFORM)


def new_event(request: pb.CreateAdminEventRequest) -> NewAdminEvent:
    """An event to raise; raises InvalidArgument for details that are too large or no JSON."""
    return NewAdminEvent(
        id=UUID(request.id),
        tenant_id=uuid_or_none(request.tenant_id) or PLATFORM,
        event_type=request.event_type,
        severity=word(pb.Severity, request.severity),
        description=request.description,
        details=_details(request.details),
        user_id=uuid_or_none(request.user_id),
        dedupe_key=request.dedupe_key,
    )


def event(row: AdminEvent) -> pb.AdminEvent:
    """A stored event."""
    return pb.AdminEvent(
        id=str(row.id),
        event_type=row.event_type,
        severity=number(pb.Severity, row.severity),
        description=row.description,
        details=json_format.ParseDict(row.details, Struct()),
        tenant_id="" if row.tenant_id == PLATFORM else str(row.tenant_id),
        user_id=text(row.user_id),
        dedupe_key=row.dedupe_key,
        occurrences=row.occurrences,
        is_resolved=row.is_resolved,
        resolved_by=row.resolved_by,
        resolution=row.resolution,
        created_at=stamp(row.created_at),
        last_seen_at=stamp(row.last_seen_at),
        resolved_at=stamp(row.resolved_at),
    )


def wanted(request: pb.ListAdminEventsRequest) -> EventFilter:
    """Which events to list."""
    severity = word(pb.Severity, request.min_severity)
    return EventFilter(request.unresolved_only, severity, uuid_or_none(request.tenant_id))


def _details(details: Struct) -> dict[str, Any]:
    if details.ByteSize() > MAX_DETAILS_BYTES:
        raise InvalidArgument(f"details hold at most {MAX_DETAILS_BYTES} bytes.", field="details")
    try:
        return json_format.MessageToDict(details)
    except (ValueError, json_format.Error):
        raise InvalidArgument("details hold a number that JSON has not.", field="details") from None
