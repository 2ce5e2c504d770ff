"""The organisations within a tenant that campaigns are run for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class Company:
    """One organisation."""

    tenant_id: UUID
    id: UUID
    name: str
    website: str
    version: int
    created_at: datetime
    updated_at: datetime
