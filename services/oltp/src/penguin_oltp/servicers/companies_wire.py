"""Companies between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import company_service_pb2 as pb
from penguin_chassis.wire import stamp
from penguin_oltp.domain.companies import Company
from penguin_oltp.servicers.changes import changes


def new_company(tenant_id: UUID, item: pb.NewCompany, at: datetime) -> Company:
    """A company as it begins."""
    return Company(
        tenant_id=tenant_id,
        id=UUID(item.id),
        name=item.name,
        website=item.website,
        version=1,
        created_at=at,
        updated_at=at,
    )


def company(row: Company) -> pb.Company:
    """A company as it stands."""
    return pb.Company(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        name=row.name,
        website=row.website,
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_company(request: pb.UpdateCompanyRequest) -> dict[str, Any]:
    """What an update changes."""
    return changes(request, request.company, required=("name",))
