"""The addresses a tenant must not write to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class Suppression:
    """One address, as it was written; it is compared in lower case."""

    tenant_id: UUID
    id: UUID
    address: str
    reason: str
    version: int
    created_at: datetime
    updated_at: datetime
