"""The people who may act for a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class User:
    """One person, with the roles held in this tenant."""

    tenant_id: UUID
    id: UUID
    email: str
    display_name: str
    roles: tuple[str, ...]
    version: int
    created_at: datetime
    updated_at: datetime
