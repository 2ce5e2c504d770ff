"""Content's stores: one method, one transaction, one fact. Named SQL stands in the .sql files beside."""

from __future__ import annotations

from penguin_chassis.housekeeping import Duty
from penguin_content.store.duties import quarantine_overdue, remove_overdue_blobs, remove_overdue_lists

DUTIES = (
    Duty("quarantine_overdue", 30.0, quarantine_overdue),
    Duty("remove_overdue_lists", 30.0, remove_overdue_lists),
    Duty("remove_overdue_blobs", 60.0, remove_overdue_blobs),
)
