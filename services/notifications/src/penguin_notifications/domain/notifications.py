"""Notifications as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from penguin_chassis.faults import Fault


@dataclass(frozen=True)
class NewNotification:
    """A notification as it is asked for; no user: every user of the tenant."""

    id: UUID
    user_id: UUID | None
    type: str
    title: str
    message: str
    channel: str
    subject_ref: str
    expires_at: datetime | None


@dataclass(frozen=True)
class CreatedNotification:
    """What a create answers, and answers again to every repeat; all else stands in the request."""

    id: UUID
    created_at: datetime


@dataclass(frozen=True)
class Notification:
    """A stored notification."""

    tenant_id: UUID
    id: UUID
    user_id: UUID | None
    type: str
    title: str
    message: str
    channel: str
    subject_ref: str
    is_read: bool
    created_at: datetime
    read_at: datetime | None
    expires_at: datetime | None

    @property
    def weight(self) -> int:
        """Bytes of its longest texts."""
        return len(self.title.encode()) + len(self.message.encode()) + len(self.subject_ref.encode())


@dataclass(frozen=True)
class Marked:
    """How many notifications were unread until now, and which do not exist."""

    marked: int
    missing: tuple[UUID, ...]


Created = CreatedNotification | Fault
