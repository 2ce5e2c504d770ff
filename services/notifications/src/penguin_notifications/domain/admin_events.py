"""Admin events as values: how they are weighed, and for how long they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

# Stands for the platform itself, where an event concerns no tenant.
PLATFORM = UUID(int=0)
# From light to heavy.
SEVERITIES = ("info", "warning", "error", "critical")
# How long an event is kept after it was last seen, once it is resolved; unresolved ones are kept as long as any.
RETENTION = {
    "info": timedelta(days=90),
    "warning": timedelta(days=180),
    "error": timedelta(days=270),
    "critical": timedelta(days=365),
}
LONGEST_RETENTION = max(RETENTION.values())
# Ids and counts need no more (bytes of JSON).
MAX_DETAILS_BYTES = 16 * 1024


@dataclass(frozen=True)
class NewAdminEvent:
    """An event as it is raised; no dedupe_key: always an event of its own."""

    id: UUID
    tenant_id: UUID
    event_type: str
    severity: str
    description: str
    details: dict[str, Any]
    user_id: UUID | None
    dedupe_key: str


@dataclass(frozen=True)
class AdminEvent:
    """A stored event."""

    tenant_id: UUID
    id: UUID
    event_type: str
    severity: str
    description: str
    details: dict[str, Any]
    user_id: UUID | None
    dedupe_key: str
    occurrences: int
    is_resolved: bool
    resolved_by: str
    resolution: str
    created_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None

    @property
    def weight(self) -> int:
        """Bytes of its longest texts, at most: details count as the most there may be."""
        return len(self.description.encode()) + len(self.resolution.encode()) + MAX_DETAILS_BYTES


@dataclass(frozen=True)
class EventFilter:
    """Which events to list: none of these means all."""

    unresolved_only: bool
    min_severity: str
    tenant_id: UUID | None

    @property
    def severities(self) -> list[str]:
        """The severities that weigh enough."""
        return list(SEVERITIES[SEVERITIES.index(self.min_severity) :]) if self.min_severity else list(SEVERITIES)
