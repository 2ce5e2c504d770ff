"""Notifications between the wire and the domain."""

from __future__ import annotations

from uuid import UUID

from penguin.notifications.v1 import notification_service_pb2 as pb
from penguin_chassis.errors import item_error
from penguin_chassis.faults import Fault
from penguin_chassis.wire import number, stamp, text, uuid_or_none, when, word
from penguin_notifications.domain.feed import Place, Watcher, place_of, token_of
from penguin_notifications.domain.notifications import Created, NewNotification, Notification
from penguin_notifications.operations.watching import Sighting


def new_notification(item: pb.NewNotification) -> NewNotification:
    """An item of a batch create."""
    return NewNotification(
        id=UUID(item.id),
        user_id=uuid_or_none(item.user_id),
        type=item.type,
        title=item.title,
        message=item.message,
        channel=word(pb.Channel, item.channel, "in_app"),
        subject_ref=item.subject_ref,
        expires_at=when(item, "expires_at"),
    )


def notification(row: Notification) -> pb.Notification:
    """A stored notification."""
    return pb.Notification(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        user_id=text(row.user_id),
        type=row.type,
        title=row.title,
        message=row.message,
        channel=number(pb.Channel, row.channel),
        subject_ref=row.subject_ref,
        is_read=row.is_read,
        created_at=stamp(row.created_at),
        read_at=stamp(row.read_at),
        expires_at=stamp(row.expires_at),
    )


def created(tenant_id: UUID, new: NewNotification, answer: Created) -> pb.CreateNotificationResult:
    """The answer to one item: what was asked for, under the id and with the time it was first created with."""
    if isinstance(answer, Fault):
        return pb.CreateNotificationResult(error=item_error(answer))
    row = Notification(
        tenant_id=tenant_id, id=answer.id, user_id=new.user_id, type=new.type, title=new.title, message=new.message,
        channel=new.channel, subject_ref=new.subject_ref, is_read=False, created_at=answer.created_at, read_at=None,
        expires_at=new.expires_at,
    )  # fmt: skip
    return pb.CreateNotificationResult(notification=notification(row))


def watch(request: pb.WatchNotificationsRequest) -> tuple[Watcher, Place | None]:
    """Who watches, and since where; raises InvalidArgument (INVALID_RESUME_TOKEN)."""
    watcher = Watcher(UUID(request.tenant_id), uuid_or_none(request.user_id))
    return watcher, place_of(watcher, request.resume_token) if request.resume_token else None


def sighting(watcher: Watcher, seen: Sighting) -> pb.WatchNotificationsResponse:
    """One message of a stream; without a notification it is a keep-alive."""
    return pb.WatchNotificationsResponse(
        notification=notification(seen.notification) if seen.notification else None,
        resume_token=token_of(watcher, seen.place),
    )
