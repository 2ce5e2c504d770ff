"""The Notifications tier's stores: one method, one transaction, one fact. Named SQL stands in the .sql files beside."""

from __future__ import annotations

from penguin_chassis.housekeeping import Duty
from penguin_notifications.store.retention import remove_admin_events, remove_notifications

DUTIES = (
    Duty("remove_notifications", 600.0, remove_notifications),
    Duty("remove_admin_events", 3600.0, remove_admin_events),
)
