"""AdminEventService as its clients see it."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from services.notifications.tests.rows import admin_request

from penguin.notifications.v1 import admin_event_service_pb2 as pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(notifications: TierClient) -> AdminEventServiceStub:
    return AdminEventServiceStub(notifications.channel)


async def create(tier: TierClient, stub: AdminEventServiceStub, request: pb.CreateAdminEventRequest) -> pb.AdminEvent:
    made: pb.AdminEvent = (await tier.call(stub.CreateAdminEvent, request)).admin_event
    return made


async def read(tier: TierClient, stub: AdminEventServiceStub, event_id: str) -> pb.AdminEvent:
    found: pb.AdminEvent = (
        await tier.call(stub.GetAdminEvent, pb.GetAdminEventRequest(admin_event_id=event_id))
    ).admin_event
    return found


def resolve(event_id: str, resolution: str = "done") -> pb.ResolveAdminEventRequest:
    return pb.ResolveAdminEventRequest(request_id=str(uuid4()), admin_event_id=event_id, resolution=resolution)


async def refusal(tier: TierClient, method: Any, request: Any, **how: Any) -> Any:
    with pytest.raises(Refused) as refused:
        await tier.call(method, request, **how)
    return refused.value.answer


async def test_what_is_raised_can_be_read(notifications: TierClient, stub: AdminEventServiceStub, tenant: UUID) -> None:
    details = json_format.ParseDict({"saga": "s", "count": 3, "more": [1.5, None, {"a": True}]}, Struct())
    request = admin_request(tenant_id=str(tenant), user_id=str(uuid4()), details=details, dedupe_key="k")
    made = await create(notifications, stub, request)
    for field in ("id", "event_type", "severity", "description", "details", "tenant_id", "user_id", "dedupe_key"):
        assert getattr(made, field) == getattr(request, field)
    assert (made.occurrences, made.is_resolved, made.last_seen_at) == (1, False, made.created_at)
    assert await read(notifications, stub, made.id) == made
    platforms = await create(notifications, stub, admin_request())
    assert platforms.tenant_id == ""


async def test_a_repeat_gets_the_first_answer_another_body_is_refused(
    notifications: TierClient, stub: AdminEventServiceStub, tenant: UUID
) -> None:
    request = admin_request(dedupe_key=str(uuid4()))
    first = await create(notifications, stub, request)
    request.id = str(uuid4())
    assert await create(notifications, stub, request) == first
    request.tenant_id = str(tenant)
    assert (await refusal(notifications, stub.CreateAdminEvent, request)).reason == "REQUEST_ID_REUSED"
    taken = await refusal(notifications, stub.CreateAdminEvent, admin_request(id=first.id))
    assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")


async def test_an_unresolved_event_is_counted_up(
    notifications: TierClient, stub: AdminEventServiceStub, tenant: UUID
) -> None:
    key = str(uuid4())
    first = await create(notifications, stub, admin_request(dedupe_key=key))
    second = await create(notifications, stub, admin_request(dedupe_key=key))
    assert (second.id, second.occurrences) == (first.id, 2)
    assert second.last_seen_at.ToNanoseconds() > first.last_seen_at.ToNanoseconds()
    assert (await create(notifications, stub, admin_request(dedupe_key=key, tenant_id=str(tenant)))).occurrences == 1
    await notifications.call(stub.ResolveAdminEvent, resolve(first.id))
    third = await create(notifications, stub, admin_request(dedupe_key=key))
    assert (third.id != first.id, third.occurrences) == (True, 1)
    alone = [await create(notifications, stub, admin_request()) for _ in range(2)]
    assert [e.occurrences for e in alone] == [1, 1]


async def test_who_resolves_first_has_resolved_it(notifications: TierClient, stub: AdminEventServiceStub) -> None:
    made = await create(notifications, stub, admin_request())
    request = resolve(made.id, "restarted the relay")
    first = (await notifications.call(stub.ResolveAdminEvent, request)).admin_event
    assert (first.is_resolved, first.resolved_by, first.resolution) == (True, "test", "restarted the relay")
    assert first.HasField("resolved_at")
    assert (await notifications.call(stub.ResolveAdminEvent, request)).admin_event == first
    assert (await notifications.call(stub.ResolveAdminEvent, resolve(made.id, "again"))).admin_event == first
    request.resolution = "something else"
    assert (await refusal(notifications, stub.ResolveAdminEvent, request)).reason == "REQUEST_ID_REUSED"


async def test_lists_are_filtered_and_paged_newest_first(
    notifications: TierClient, stub: AdminEventServiceStub, tenant: UUID
) -> None:
    severities = [pb.SEVERITY_INFO, pb.SEVERITY_WARNING, pb.SEVERITY_ERROR, pb.SEVERITY_CRITICAL]
    made = [
        await create(notifications, stub, admin_request(tenant_id=str(tenant), severity=severity))
        for severity in severities
    ]
    await create(notifications, stub, admin_request(severity=pb.SEVERITY_CRITICAL))
    await notifications.call(stub.ResolveAdminEvent, resolve(made[3].id))
    newest = [e.id for e in reversed(made)]

    async def ids(**fields: Any) -> tuple[list[str], str]:
        request = pb.ListAdminEventsRequest(tenant_id=str(tenant), **fields)
        page = await notifications.call(stub.ListAdminEvents, request)
        return [e.id for e in page.admin_events], page.next_page_token

    assert await ids() == (newest, "")
    assert await ids(min_severity=pb.SEVERITY_ERROR) == (newest[:2], "")
    assert await ids(unresolved_only=True) == (newest[1:], "")
    first, token = await ids(page_size=3)
    rest, end = await ids(page_size=3, page_token=token)
    assert (first + rest, end) == (newest, "")
    foreign = pb.ListAdminEventsRequest(page_token=token)
    assert (await refusal(notifications, stub.ListAdminEvents, foreign)).reason == "INVALID_PAGE_TOKEN"


async def test_bad_fields_are_each_named(notifications: TierClient, stub: AdminEventServiceStub) -> None:
    bad = admin_request(event_type="Saga!", severity=pb.SEVERITY_UNSPECIFIED, description="")
    answer = await refusal(notifications, stub.CreateAdminEvent, bad)
    assert set(answer.fields) == {"event_type", "severity", "description"}
    for value in ("x" * 20_000, float("nan")):
        details = Struct()
        details["v"] = value
        answer = await refusal(notifications, stub.CreateAdminEvent, admin_request(details=details))
        assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["details"])
    get = pb.GetAdminEventRequest(admin_event_id="x")
    assert (await refusal(notifications, stub.GetAdminEvent, get)).fields == ["admin_event_id"]
    long = resolve(str(uuid4()), "x" * 2001)
    assert (await refusal(notifications, stub.ResolveAdminEvent, long)).fields == ["resolution"]
    listing = pb.ListAdminEventsRequest(page_size=1001, tenant_id="x")
    assert set((await refusal(notifications, stub.ListAdminEvents, listing)).fields) == {"page_size", "tenant_id"}


async def test_unknown_events_are_not_found(notifications: TierClient, stub: AdminEventServiceStub) -> None:
    unknown = str(uuid4())
    get = pb.GetAdminEventRequest(admin_event_id=unknown)
    for method, request in ((stub.GetAdminEvent, get), (stub.ResolveAdminEvent, resolve(unknown))):
        answer = await refusal(notifications, method, request)
        assert (answer.code, answer.metadata) == (
            grpc.StatusCode.NOT_FOUND,
            {"resource": "admin_event", "id": unknown},
        )


async def test_they_are_the_platforms_alone(
    notifications: TierClient, stub: AdminEventServiceStub, tenant: UUID
) -> None:
    made = await create(notifications, stub, admin_request(tenant_id=str(tenant)))
    scopes = ("admin_events.read", "admin_events.write")
    tenants = notifications.tokens.token("notifications", tenant=tenant, scopes=scopes)
    unnamed = notifications.tokens.token("notifications", platform=True, scopes=scopes)
    requests = [
        (stub.CreateAdminEvent, admin_request(tenant_id=str(tenant))),
        (stub.GetAdminEvent, pb.GetAdminEventRequest(admin_event_id=made.id)),
        (stub.ListAdminEvents, pb.ListAdminEventsRequest(tenant_id=str(tenant))),
        (stub.ResolveAdminEvent, resolve(made.id)),
    ]
    for method, request in requests:
        anonymous = await refusal(notifications, method, request, anonymous=True)
        assert (anonymous.code, anonymous.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        for token in (tenants, unnamed):
            refused = await refusal(notifications, method, request, token=token)
            assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PLATFORM_ONLY")
