"""The tenant's sending domains, and what each must publish."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class DnsRecord:
    """One record that the domain must publish."""

    type: str
    name: str
    value: str


@dataclass(frozen=True)
class Domain:
    """One sending domain."""

    tenant_id: UUID
    id: UUID
    domain: str
    verification_status: str
    dns_records: tuple[DnsRecord, ...]
    is_primary: bool
    company_id: UUID | None
    version: int
    created_at: datetime
    updated_at: datetime
