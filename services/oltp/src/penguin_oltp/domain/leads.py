"""The people a tenant writes to. Addresses are compared in lower case and kept as they were written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

ACTIVE = "active"


@dataclass(frozen=True)
class Lead:
    """One person in one audience (`list`)."""

    tenant_id: UUID
    id: UUID
    email: str
    first_name: str
    last_name: str
    company: str
    list: str
    custom_fields: dict[str, str]
    status: str
    version: int
    created_at: datetime
    updated_at: datetime
