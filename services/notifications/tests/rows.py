"""Configuration and requests that the Notifications tier's tests begin with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from penguin.notifications.v1 import admin_event_service_pb2 as admin_pb
from penguin.notifications.v1 import notification_service_pb2 as pb
from penguin_devstack.roles import TierDatabase
from penguin_notifications.config import NotificationsConfig
from penguin_testkit.tokens import TokenFactory


def config_of(urls: TierDatabase, tokens: TokenFactory) -> NotificationsConfig:
    """The tier on any free port over this database."""
    return NotificationsConfig.model_validate(
        {
            "NOTIFICATIONS_DB_URL": urls.app_url,
            "NOTIFICATIONS_MAINTENANCE_DB_URL": urls.maintenance_url,
            "NOTIFICATIONS_LISTEN": "127.0.0.1:0",
            "NOTIFICATIONS_POOL_MAX": 8,
            "PENGUIN_JWKS_PATH": tokens.jwks_path,
            "PENGUIN_DRAIN_SECONDS": 5,
        }
    )


def ahead(seconds: float) -> Timestamp:
    """A moment from now."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return stamp


def new_notification(**fields: Any) -> pb.NewNotification:
    """A right item of a batch create."""
    right: dict[str, Any] = {
        "request_id": str(uuid4()),
        "id": str(uuid4()),
        "type": "campaign.completed",
        "title": "Your campaign is complete",
        "message": "All 1,000 emails are out.",
        "subject_ref": str(uuid4()),
    }
    return pb.NewNotification(**right | fields)


def create_request(tenant: UUID, *items: pb.NewNotification) -> pb.BatchCreateNotificationsRequest:
    """A batch create."""
    return pb.BatchCreateNotificationsRequest(tenant_id=str(tenant), notifications=items)


def admin_request(**fields: Any) -> admin_pb.CreateAdminEventRequest:
    """A right event to raise."""
    right: dict[str, Any] = {
        "request_id": str(uuid4()),
        "id": str(uuid4()),
        "event_type": "saga.stuck",
        "severity": admin_pb.SEVERITY_ERROR,
        "description": "A saga has not moved for an hour.",
    }
    return admin_pb.CreateAdminEventRequest(**right | fields)
