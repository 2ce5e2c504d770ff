"""What campaigns are rendered from. A template's body stands in another tier; here is the key to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class Template:
    """One template."""

    tenant_id: UUID
    id: UUID
    name: str
    subject: str
    content_storage_key: str
    content_generation: int
    version: int
    created_at: datetime
    updated_at: datetime
