"""NotificationService: every method, by its contract."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.notifications.tests.rows import create_request, new_notification
from tests.contract.cases import Batch, Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.notifications.v1 import notification_service_pb2 as pb

SERVICE = "penguin.notifications.v1.NotificationService"
UNKNOWN = str(uuid4())


async def create(world: World, count: int, **fields: Any) -> list[str]:
    """Notifications to the whole tenant; their ids."""
    items = [new_notification(**fields) for _ in range(count)]
    reply = await world.call(f"{SERVICE}/BatchCreateNotifications", create_request(world.tenant, *items))
    return [result.notification.id for result in reply.results]


async def all_of_them(world: World, request: Any) -> list[Any]:
    """What the whole tenant sees."""
    asked = pb.ListNotificationsRequest(tenant_id=request.tenant_id)
    return list((await world.call(f"{SERVICE}/ListNotifications", asked)).notifications)


async def three_new(world: World) -> Any:
    return create_request(world.tenant, *(new_notification() for _ in range(3)))


def check_created(request: Any, reply: Any) -> None:
    assert [r.notification.id for r in reply.results] == [n.id for n in request.notifications]
    assert {r.notification.tenant_id for r in reply.results} == {request.tenant_id}


def same_id(items: Any) -> None:
    items[1].id = items[0].id


async def get_one(world: World) -> Any:
    (found,) = await create(world, 1)
    return pb.GetNotificationRequest(tenant_id=str(world.tenant), notification_id=found)


async def list_five(world: World) -> Any:
    await create(world, 5)
    return pb.ListNotificationsRequest(tenant_id=str(world.tenant))


async def count_three(world: World) -> Any:
    await create(world, 3)
    return pb.CountUnreadRequest(tenant_id=str(world.tenant))


async def read_two(world: World) -> Any:
    found = await create(world, 2)
    return pb.MarkReadRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), notification_ids=found)


def only_unknown(request: Any) -> None:
    del request.notification_ids[:]
    request.notification_ids.append(UNKNOWN)


def none_marked(reply: Any) -> None:
    assert reply.marked == 0
    assert reply.missing_ids


async def delete_one(world: World) -> Any:
    (found,) = await create(world, 1)
    return pb.DeleteNotificationRequest(tenant_id=str(world.tenant), request_id=str(uuid4()), notification_id=found)


async def watch(world: World) -> Any:
    """A stream that resumes before two notifications that came while nobody watched."""
    request = pb.WatchNotificationsRequest(tenant_id=str(world.tenant))
    (first,) = await world.call(f"{SERVICE}/WatchNotifications", request, lambda _, message: bool(message.resume_token))
    await create(world, 1, title="while nobody watched")
    request.resume_token = first.resume_token
    return request


def check_watched(request: Any, messages: Any) -> None:
    assert messages[-1].notification.title == "while nobody watched"
    assert messages[-1].notification.tenant_id == request.tenant_id
    assert messages[-1].resume_token != request.resume_token


class TestNotificationService(ServiceContract):
    service = SERVICE
    tiers = ("notifications",)
    cases = (
        Case(
            "BatchCreateNotifications",
            three_new,
            check_created,
            ("notifications[1].title", lambda r: r.notifications[1].ClearField("title")),
            "it names nothing that could be absent",
            stranger=lambda reply: equal([r.WhichOneof("outcome") for r in reply.results], ["notification"] * 3),
            mutation=Mutation(all_of_them, vary=lambda r: setattr(r.notifications[0], "title", "other")),
            batch=Batch("notifications", same_id, "ALREADY_EXISTS"),
        ),
        Case(
            "GetNotification",
            get_one,
            lambda request, reply: equal(reply.notification.id, request.notification_id),
            ("notification_id", lambda r: setattr(r, "notification_id", "x")),
            lambda r: setattr(r, "notification_id", UNKNOWN),
        ),
        Case(
            "ListNotifications",
            list_five,
            lambda request, reply: equal(len(reply.notifications), 5),
            ("user_id", lambda r: setattr(r, "user_id", "x")),
            "a list of nothing is empty",
            stranger=lambda reply: equal(list(reply.notifications), []),
            listing=Listing("notifications", 5, lambda r: setattr(r, "unread_only", True)),
        ),
        Case(
            "CountUnread",
            count_three,
            lambda request, reply: equal(reply.unread, 3),
            ("user_id", lambda r: setattr(r, "user_id", "x")),
            "a user without notifications has none unread",
            stranger=lambda reply: equal(reply.unread, 0),
        ),
        Case(
            "MarkRead",
            read_two,
            lambda request, reply: equal((reply.marked, list(reply.missing_ids)), (2, [])),
            ("notification_ids[0]", lambda r: r.notification_ids.__setitem__(0, "x")),
            Within(only_unknown, none_marked),
            stranger=none_marked,
            mutation=Mutation(all_of_them, vary=lambda r: r.notification_ids.append(UNKNOWN)),
        ),
        Case(
            "DeleteNotification",
            delete_one,
            lambda request, reply: equal(reply, pb.DeleteNotificationResponse()),
            ("notification_id", lambda r: setattr(r, "notification_id", "x")),
            lambda r: setattr(r, "notification_id", UNKNOWN),
            mutation=Mutation(all_of_them, vary=lambda r: setattr(r, "notification_id", UNKNOWN)),
        ),
        Case(
            "WatchNotifications",
            watch,
            check_watched,
            ("user_id", lambda r: setattr(r, "user_id", "x")),
            "a user without notifications is told of none yet",
            stranger="INVALID_RESUME_TOKEN",
            enough=lambda request, message: message.HasField("notification"),
        ),
    )
