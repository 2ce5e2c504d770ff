"""The customers of the platform."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

ACTIVE = "active"
CLOSED = "closed"


@dataclass(frozen=True)
class Tenant:
    """One customer."""

    tenant_id: UUID
    name: str
    status: str
    unknown_outcome_policy: str
    version: int
    created_at: datetime
    updated_at: datetime

    @property
    def id(self) -> UUID:
        """What other resources are called by; a tenant is its own."""
        return self.tenant_id
