"""The Notifications tier's servicers: wire to domain, call, domain to wire. The only place that registers them."""

from __future__ import annotations

from penguin.notifications.v1 import admin_event_service_pb2_grpc, notification_service_pb2_grpc
from penguin_chassis.pool import Database
from penguin_chassis.server import Registration, State
from penguin_notifications.servicers.admin_events import AdminEventServicer
from penguin_notifications.servicers.notifications import NotificationServicer


def registrations(db: Database, state: State) -> list[Registration]:
    """Every service of this tier over one database; streams end when `state` says that the server drains."""
    return [
        Registration(
            "penguin.notifications.v1.NotificationService",
            notification_service_pb2_grpc.add_NotificationServiceServicer_to_server,
            NotificationServicer(db, lambda: state.draining),
        ),
        Registration(
            "penguin.notifications.v1.AdminEventService",
            admin_event_service_pb2_grpc.add_AdminEventServiceServicer_to_server,
            AdminEventServicer(db),
        ),
    ]
