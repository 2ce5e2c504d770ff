"""NotificationService as its clients see it, streams apart."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from services.notifications.tests.rows import ahead, create_request, new_notification

from penguin.common.v1 import errors_pb2, mutation_pb2
from penguin.notifications.v1 import notification_service_pb2 as pb
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(notifications: TierClient) -> NotificationServiceStub:
    return NotificationServiceStub(notifications.channel)


async def create(
    tier: TierClient, stub: NotificationServiceStub, tenant: UUID, *items: pb.NewNotification
) -> list[pb.Notification]:
    reply = await tier.call(stub.BatchCreateNotifications, create_request(tenant, *items))
    assert all(result.WhichOneof("outcome") == "notification" for result in reply.results)
    return [result.notification for result in reply.results]


async def listed(tier: TierClient, stub: NotificationServiceStub, tenant: UUID, **fields: Any) -> list[str]:
    request = pb.ListNotificationsRequest(tenant_id=str(tenant), **fields)
    return [n.id for n in (await tier.call(stub.ListNotifications, request)).notifications]


async def unread(tier: TierClient, stub: NotificationServiceStub, tenant: UUID, user: str = "") -> int:
    reply = await tier.call(stub.CountUnread, pb.CountUnreadRequest(tenant_id=str(tenant), user_id=user))
    count: int = reply.unread
    return count


def mark(tenant: UUID, *ids: str) -> pb.MarkReadRequest:
    return pb.MarkReadRequest(tenant_id=str(tenant), request_id=str(uuid4()), notification_ids=ids)


def delete(tenant: UUID, notification_id: str) -> pb.DeleteNotificationRequest:
    return pb.DeleteNotificationRequest(tenant_id=str(tenant), request_id=str(uuid4()), notification_id=notification_id)


async def refusal(tier: TierClient, method: Any, request: Any, **how: Any) -> Any:
    with pytest.raises(Refused) as refused:
        await tier.call(method, request, **how)
    return refused.value.answer


async def test_what_is_created_can_be_read(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    item = new_notification(user_id=str(uuid4()), channel=pb.CHANNEL_PUSH, expires_at=ahead(60))
    (made,) = await create(notifications, stub, tenant, item)
    for field in ("id", "user_id", "type", "title", "message", "channel", "subject_ref", "expires_at"):
        assert getattr(made, field) == getattr(item, field)
    assert (made.tenant_id, made.is_read, made.HasField("read_at")) == (str(tenant), False, False)
    get = pb.GetNotificationRequest(tenant_id=str(tenant), notification_id=item.id)
    assert (await notifications.call(stub.GetNotification, get)).notification == made
    (plain,) = await create(notifications, stub, tenant, new_notification())
    assert plain.channel == pb.CHANNEL_IN_APP


async def test_a_repeat_gets_the_first_answer(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    item = new_notification()
    first = await create(notifications, stub, tenant, item)
    again = pb.NewNotification()
    again.CopyFrom(item)
    again.id = str(uuid4())
    assert await create(notifications, stub, tenant, again) == first
    assert await listed(notifications, stub, tenant) == [item.id]


async def test_one_bad_item_sinks_none_of_the_rest(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    item = new_notification()
    await create(notifications, stub, tenant, item)
    changed, taken, twice = pb.NewNotification(), new_notification(id=item.id), new_notification()
    changed.CopyFrom(item)
    changed.title = "Another"
    request = create_request(tenant, changed, taken, twice, new_notification(id=twice.id), new_notification())
    results = (await notifications.call(stub.BatchCreateNotifications, request)).results
    assert [(r.error.reason, r.error.field) for r in results] == [
        (errors_pb2.ERROR_REASON_REQUEST_ID_REUSED, "request_id"),
        (errors_pb2.ERROR_REASON_ALREADY_EXISTS, "id"),
        (errors_pb2.ERROR_REASON_UNSPECIFIED, ""),
        (errors_pb2.ERROR_REASON_ALREADY_EXISTS, "id"),
        (errors_pb2.ERROR_REASON_UNSPECIFIED, ""),
    ]


async def test_a_saga_step_is_carried_out_once_and_is_no_compensation(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    request = create_request(tenant, new_notification())
    request.saga_step.saga_id, request.saga_step.step = str(uuid4()), "tell"
    request.saga_step.operation = mutation_pb2.STEP_OPERATION_ACTION
    first = await notifications.call(stub.BatchCreateNotifications, request)
    assert await notifications.call(stub.BatchCreateNotifications, request) == first
    request.saga_step.operation = mutation_pb2.STEP_OPERATION_COMPENSATION
    answer = await refusal(notifications, stub.BatchCreateNotifications, request)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.fields == ["saga_step.operation"]


async def test_bad_fields_are_each_named(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    bad = create_request(tenant, new_notification(), new_notification(title="", type="A b", user_id="x", channel=9))
    answer = await refusal(notifications, stub.BatchCreateNotifications, bad)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    names = ("title", "type", "user_id", "channel")
    assert set(answer.fields) == {f"notifications[1].{name}" for name in names}
    endless = create_request(tenant, new_notification(expires_at=Timestamp(seconds=2**62)))
    answer = await refusal(notifications, stub.BatchCreateNotifications, endless)
    assert answer.fields == ["expires_at"]
    nul = create_request(tenant, new_notification(message="a\0b"))
    answer = await refusal(notifications, stub.BatchCreateNotifications, nul)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_user_sees_its_own_and_the_whole_tenants(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    mine, other = str(uuid4()), str(uuid4())
    ids = {}
    for user in (mine, "", other):
        (made,) = await create(notifications, stub, tenant, new_notification(user_id=user))
        ids[user] = made.id
    await create(notifications, stub, tenant, new_notification(user_id=mine, expires_at=ahead(-1)))
    assert await listed(notifications, stub, tenant, user_id=mine) == [ids[""], ids[mine]]
    assert await listed(notifications, stub, tenant, user_id=other) == [ids[other], ids[""]]
    assert await listed(notifications, stub, tenant) == [ids[""]]
    assert [await unread(notifications, stub, tenant, user) for user in (mine, other, "")] == [2, 2, 1]


async def test_read_once_is_read(notifications: TierClient, stub: NotificationServiceStub, tenant: UUID) -> None:
    user, nobody = str(uuid4()), str(uuid4())
    made = await create(notifications, stub, tenant, *(new_notification(user_id=user) for _ in range(3)))
    ids = [n.id for n in made]
    request = mark(tenant, ids[0], ids[1], nobody, ids[0])
    for _ in range(2):
        reply = await notifications.call(stub.MarkRead, request)
        assert (reply.marked, list(reply.missing_ids)) == (2, [nobody])
    assert (await notifications.call(stub.MarkRead, mark(tenant, *ids))).marked == 1
    request.notification_ids.append(ids[2])
    assert (await refusal(notifications, stub.MarkRead, request)).reason == "REQUEST_ID_REUSED"
    assert await unread(notifications, stub, tenant, user) == 0
    assert await listed(notifications, stub, tenant, user_id=user, unread_only=True) == []
    get = pb.GetNotificationRequest(tenant_id=str(tenant), notification_id=ids[0])
    read = (await notifications.call(stub.GetNotification, get)).notification
    assert read.is_read
    assert read.HasField("read_at")
    bad = mark(tenant, "x")
    assert (await refusal(notifications, stub.MarkRead, bad)).fields == ["notification_ids[0]"]


async def test_a_deleted_one_is_out_of_sight(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    (made,) = await create(notifications, stub, tenant, new_notification())
    request = delete(tenant, made.id)
    for _ in range(2):
        await notifications.call(stub.DeleteNotification, request)
    assert await listed(notifications, stub, tenant) == []
    assert await unread(notifications, stub, tenant) == 0
    assert list((await notifications.call(stub.MarkRead, mark(tenant, made.id))).missing_ids) == [made.id]
    get = pb.GetNotificationRequest(tenant_id=str(tenant), notification_id=made.id)
    for method, asked in ((stub.GetNotification, get), (stub.DeleteNotification, delete(tenant, made.id))):
        answer = await refusal(notifications, method, asked)
        assert (answer.code, answer.metadata["resource"]) == (grpc.StatusCode.NOT_FOUND, "notification")
    request.notification_id = str(uuid4())
    assert (await refusal(notifications, stub.DeleteNotification, request)).reason == "REQUEST_ID_REUSED"
    request.notification_id = "x"
    assert (await refusal(notifications, stub.DeleteNotification, request)).fields == ["notification_id"]


@pytest.mark.parametrize("unread_only", [False, True])
async def test_pages_are_whole_newest_first(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID, unread_only: bool
) -> None:
    user = str(uuid4())
    made: list[pb.Notification] = []
    for owner in (user, "", user):
        made += await create(notifications, stub, tenant, *(new_notification(user_id=owner) for _ in range(2)))
    newest = sorted(made, key=lambda n: (n.created_at.ToNanoseconds(), UUID(n.id)), reverse=True)
    request = pb.ListNotificationsRequest(tenant_id=str(tenant), user_id=user, page_size=4, unread_only=unread_only)
    seen: list[str] = []
    for size in (4, 2):
        page = await notifications.call(stub.ListNotifications, request)
        assert len(page.notifications) == size
        seen += [n.id for n in page.notifications]
        request.page_token = page.next_page_token or request.page_token
    assert page.next_page_token == ""
    assert seen == [n.id for n in newest]
    request.unread_only = not unread_only
    assert (await refusal(notifications, stub.ListNotifications, request)).reason == "INVALID_PAGE_TOKEN"


async def test_long_texts_make_shorter_pages(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    for _ in range(2):
        await create(notifications, stub, tenant, *(new_notification(message="\N{PENGUIN}" * 4000) for _ in range(200)))
    request = pb.ListNotificationsRequest(tenant_id=str(tenant), page_size=1000)
    seen: set[str] = set()
    for _ in range(5):
        page = await notifications.call(stub.ListNotifications, request)
        seen |= {n.id for n in page.notifications}
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert len(seen) == 400


async def test_nobody_reaches_into_another_tenant(
    notifications: TierClient, stub: NotificationServiceStub, tenant: UUID
) -> None:
    (made,) = await create(notifications, stub, tenant, new_notification())
    for owner, expected in ((tenant, None), (uuid4(), grpc.StatusCode.NOT_FOUND)):
        requests = [
            (stub.BatchCreateNotifications, create_request(owner, new_notification())),
            (stub.GetNotification, pb.GetNotificationRequest(tenant_id=str(owner), notification_id=made.id)),
            (stub.ListNotifications, pb.ListNotificationsRequest(tenant_id=str(owner))),
            (stub.CountUnread, pb.CountUnreadRequest(tenant_id=str(owner))),
            (stub.MarkRead, mark(owner, made.id)),
            (stub.DeleteNotification, delete(owner, made.id)),
        ]
        if expected is None:
            for method, request in requests:
                anonymous = await refusal(notifications, method, request, anonymous=True)
                assert (anonymous.code, anonymous.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
                stranger = await refusal(notifications, method, request, tenant=uuid4())
                assert (stranger.code, stranger.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_MISMATCH")
            continue
        assert await listed(notifications, stub, owner) == []
        assert await unread(notifications, stub, owner) == 0
        for method, request in (requests[1], requests[5]):
            assert (await refusal(notifications, method, request)).code is expected
        assert list((await notifications.call(*requests[4])).missing_ids) == [made.id]
