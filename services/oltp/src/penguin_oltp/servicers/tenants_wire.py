"""Tenants between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import tenant_service_pb2 as pb
from penguin_chassis.wire import number, stamp, word
from penguin_oltp.domain.tenants import ACTIVE, Tenant
from penguin_oltp.servicers.changes import changes


def new_tenant(item: pb.NewTenant, at: datetime) -> Tenant:
    """A tenant as it begins."""
    return Tenant(
        tenant_id=UUID(item.id),
        name=item.name,
        status=ACTIVE,
        unknown_outcome_policy=word(pb.UnknownOutcomePolicy, item.unknown_outcome_policy, "hold"),
        version=1,
        created_at=at,
        updated_at=at,
    )


def tenant(row: Tenant) -> pb.Tenant:
    """A tenant as it stands."""
    return pb.Tenant(
        id=str(row.tenant_id),
        name=row.name,
        unknown_outcome_policy=number(pb.UnknownOutcomePolicy, row.unknown_outcome_policy),
        status=number(pb.TenantStatus, row.status),
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_tenant(request: pb.UpdateTenantRequest) -> dict[str, Any]:
    """What an update changes."""
    update = request.tenant
    policy = word(pb.UnknownOutcomePolicy, update.unknown_outcome_policy, "hold")
    return changes(request, update, required=("name",), unknown_outcome_policy=policy)
