"""Campaigns and their state machine: draft, running, paused, completed, cancelled. The clock is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from penguin_chassis.faults import FailedPrecondition

DRAFT = "draft"
RUNNING = "running"
PAUSED = "paused"
COMPLETED = "completed"
CANCELLED = "cancelled"
ENDED = frozenset({COMPLETED, CANCELLED})


@dataclass(frozen=True)
class Campaign:
    """One campaign. Sealed: every recipient's email stands in the ledger, so that it can complete."""

    tenant_id: UUID
    id: UUID
    name: str
    audience_list: str
    company_id: UUID | None
    status: str
    launched_at: datetime | None
    sealed_at: datetime | None
    completed_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Progress:
    """Emails of a campaign by status, and by kind of event (each email once per kind)."""

    statuses: Mapping[str, int]
    events: Mapping[str, int]


def conflict(campaign: Campaign, message: str, **metadata: object) -> FailedPrecondition:
    """The campaign's state does not allow it."""
    told = {"resource": "campaign", "state": campaign.status} | {k: str(v) for k, v in metadata.items()}
    return FailedPrecondition(message, metadata=told)


def _moved(campaign: Campaign, at: datetime, **changes: Any) -> Campaign:
    # Times are taken as calls arrive, and calls wait for one another: what comes after is never told of as having come before.
    since = max(at, campaign.updated_at + timedelta(microseconds=1))
    return replace(campaign, **changes, version=campaign.version + 1, updated_at=since)


def start(campaign: Campaign, at: datetime) -> Campaign:
    """Running from now on; it was launched when it first ran."""
    if campaign.status == RUNNING:
        return campaign
    if campaign.status in ENDED:
        raise conflict(campaign, "The campaign has ended.")
    return _moved(campaign, at, status=RUNNING, launched_at=campaign.launched_at or at)


def pause(campaign: Campaign, at: datetime) -> Campaign:
    """Running no more, until it is started again."""
    if campaign.status == PAUSED:
        return campaign
    if campaign.status != RUNNING:
        raise conflict(campaign, "Only a running campaign can be paused.")
    return _moved(campaign, at, status=PAUSED)


def cancel(campaign: Campaign, at: datetime) -> Campaign:
    """Ended for good."""
    if campaign.status == CANCELLED:
        return campaign
    if campaign.status == COMPLETED:
        raise conflict(campaign, "The campaign is completed.")
    return _moved(campaign, at, status=CANCELLED)


def seal(campaign: Campaign, at: datetime) -> Campaign:
    """Every recipient's email stands: said once, and true for good."""
    if campaign.sealed_at is not None:
        return campaign
    if campaign.status != RUNNING:
        raise conflict(campaign, "Only a running campaign can be sealed.")
    return _moved(campaign, at, sealed_at=at)


def complete(campaign: Campaign, open_emails: int, at: datetime) -> Campaign:
    """Ended, since nothing of it is on its way any more; a completed one stays as it is."""
    if campaign.status == COMPLETED:
        return campaign
    if campaign.status != RUNNING or campaign.sealed_at is None or open_emails:
        raise conflict(campaign, "The campaign is not through yet.", open_emails=open_emails)
    return _moved(campaign, at, status=COMPLETED, completed_at=at)


def update(campaign: Campaign, changes: Mapping[str, Any], at: datetime) -> Campaign:
    """The campaign with other values; its audience is fixed once everyone in it has an email, or it has ended."""
    audience = changes.get("audience_list", campaign.audience_list)
    if audience != campaign.audience_list and (campaign.sealed_at or campaign.status in ENDED):
        raise conflict(campaign, "The campaign's audience can no longer change.")
    return _moved(campaign, at, **changes)
