"""AdminEventService: every method, by its contract. All of them are the platform's."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.notifications.tests.rows import admin_request
from tests.contract.cases import Case, Listing, Mutation, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.notifications.v1 import admin_event_service_pb2 as pb

SERVICE = "penguin.notifications.v1.AdminEventService"
UNKNOWN = str(uuid4())


async def raised(world: World) -> pb.AdminEvent:
    """An event that stands."""
    reply = await world.call(f"{SERVICE}/CreateAdminEvent", await new_event(world))
    event: pb.AdminEvent = reply.admin_event
    return event


async def of_tenant(world: World, request: Any) -> list[Any]:
    """The events that concern this test's tenant."""
    asked = pb.ListAdminEventsRequest(tenant_id=str(world.tenant))
    return list((await world.call(f"{SERVICE}/ListAdminEvents", asked)).admin_events)


async def new_event(world: World) -> Any:
    return admin_request(tenant_id=str(world.tenant))


async def get_one(world: World) -> Any:
    return pb.GetAdminEventRequest(admin_event_id=(await raised(world)).id)


async def list_five(world: World) -> Any:
    for _ in range(5):
        await raised(world)
    return pb.ListAdminEventsRequest(tenant_id=str(world.tenant))


async def resolve_one(world: World) -> Any:
    event = await raised(world)
    return pb.ResolveAdminEventRequest(request_id=str(uuid4()), admin_event_id=event.id, resolution="Restarted.")


def check_resolved(request: Any, reply: Any) -> None:
    assert (reply.admin_event.id, reply.admin_event.is_resolved) == (request.admin_event_id, True)
    assert (reply.admin_event.resolution, reply.admin_event.resolved_by) == (request.resolution, "test")


class TestAdminEventService(ServiceContract):
    service = SERVICE
    tiers = ("notifications",)
    cases = (
        Case(
            "CreateAdminEvent",
            new_event,
            lambda request, reply: equal((reply.admin_event.id, reply.admin_event.occurrences), (request.id, 1)),
            ("severity", lambda r: r.ClearField("severity")),
            "it names nothing that could be absent",
            mutation=Mutation(of_tenant, vary=lambda r: setattr(r, "description", "other")),
        ),
        Case(
            "GetAdminEvent",
            get_one,
            lambda request, reply: equal(reply.admin_event.id, request.admin_event_id),
            ("admin_event_id", lambda r: setattr(r, "admin_event_id", "x")),
            lambda r: setattr(r, "admin_event_id", UNKNOWN),
        ),
        Case(
            "ListAdminEvents",
            list_five,
            lambda request, reply: equal({e.tenant_id for e in reply.admin_events}, {request.tenant_id}),
            ("min_severity", lambda r: setattr(r, "min_severity", 99)),
            "a list of nothing is empty",
            listing=Listing("admin_events", 5, lambda r: setattr(r, "unresolved_only", True)),
        ),
        Case(
            "ResolveAdminEvent",
            resolve_one,
            check_resolved,
            ("admin_event_id", lambda r: setattr(r, "admin_event_id", "x")),
            lambda r: setattr(r, "admin_event_id", UNKNOWN),
            mutation=Mutation(of_tenant, vary=lambda r: setattr(r, "resolution", "other")),
        ),
    )
