"""NotificationService on the wire."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from penguin.notifications.v1 import notification_service_pb2 as pb
from penguin.notifications.v1 import notification_service_pb2_grpc
from penguin_chassis.mutations import gate_of, item_steps, now, step_of
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_chassis.wire import uuid_or_none
from penguin_notifications.domain.pages import fitting
from penguin_notifications.operations.watching import Doorbell, Watching
from penguin_notifications.servicers import notifications_wire as wire
from penguin_notifications.servicers.newest import NEWEST, before, key
from penguin_notifications.store.feed import FeedStore
from penguin_notifications.store.notifications import NotificationStore


class NotificationServicer(notification_service_pb2_grpc.NotificationServiceServicer):
    """What a tenant's users are told."""

    def __init__(self, db: Database, stopping: Callable[[], bool]) -> None:
        self._notifications = NotificationStore(db)
        self._doorbell = Doorbell()
        self._watching = Watching(FeedStore(db), self._doorbell, stopping)

    async def BatchCreateNotifications(
        self, request: pb.BatchCreateNotificationsRequest, context: Any
    ) -> pb.BatchCreateNotificationsResponse:
        at, tenant_id = now(), UUID(request.tenant_id)
        steps = item_steps(request, request.notifications, at=at)
        news = [wire.new_notification(item) for item in request.notifications]
        answers = await self._notifications.create_batch(
            tenant_id, list(zip(steps, news, strict=True)), gate=gate_of(request, at=at), at=at
        )
        self._doorbell.ring(tenant_id)
        results = [wire.created(tenant_id, new, answer) for new, answer in zip(news, answers, strict=True)]
        return pb.BatchCreateNotificationsResponse(results=results)

    async def GetNotification(self, request: pb.GetNotificationRequest, context: Any) -> pb.GetNotificationResponse:
        found = await self._notifications.get(UUID(request.tenant_id), UUID(request.notification_id))
        return pb.GetNotificationResponse(notification=wire.notification(found))

    async def ListNotifications(
        self, request: pb.ListNotificationsRequest, context: Any
    ) -> pb.ListNotificationsResponse:
        start, size = page_start(request, before, NEWEST), page_size(request.page_size)
        found = await self._notifications.list_newest(
            UUID(request.tenant_id), uuid_or_none(request.user_id),
            before=start, limit=size + 1, unread_only=request.unread_only, at=now(),
        )  # fmt: skip
        page = found[: fitting((n.weight for n in found), size)]
        token = next_token(request, key(page[-1].created_at, page[-1].id)) if len(found) > len(page) else ""
        return pb.ListNotificationsResponse(notifications=map(wire.notification, page), next_page_token=token)

    async def CountUnread(self, request: pb.CountUnreadRequest, context: Any) -> pb.CountUnreadResponse:
        user_id = uuid_or_none(request.user_id)
        unread = await self._notifications.count_unread(UUID(request.tenant_id), user_id, now())
        return pb.CountUnreadResponse(unread=unread)

    async def MarkRead(self, request: pb.MarkReadRequest, context: Any) -> pb.MarkReadResponse:
        ids = [UUID(each) for each in request.notification_ids]
        marked = await self._notifications.mark_read(step_of(request), ids)
        return pb.MarkReadResponse(marked=marked.marked, missing_ids=map(str, marked.missing))

    async def DeleteNotification(
        self, request: pb.DeleteNotificationRequest, context: Any
    ) -> pb.DeleteNotificationResponse:
        await self._notifications.delete(step_of(request), UUID(request.notification_id))
        return pb.DeleteNotificationResponse()

    async def WatchNotifications(
        self, request: pb.WatchNotificationsRequest, context: Any
    ) -> AsyncIterator[pb.WatchNotificationsResponse]:
        watcher, since = wire.watch(request)
        async with contextlib.aclosing(self._watching.watch(watcher, since)) as sightings:
            async for sighting in sightings:
                yield wire.sighting(watcher, sighting)
