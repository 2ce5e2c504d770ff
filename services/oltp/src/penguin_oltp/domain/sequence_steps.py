"""The steps of campaigns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class SequenceStep:
    """One step; `step_order` counts from 1 within its campaign."""

    tenant_id: UUID
    id: UUID
    campaign_id: UUID
    step_order: int
    step_type: str
    email_account_id: UUID | None
    template_id: UUID | None
    subject_override: str
    wait_duration_hours: int
    wait_until: datetime | None
    condition_type: str
    condition_value: str
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime
