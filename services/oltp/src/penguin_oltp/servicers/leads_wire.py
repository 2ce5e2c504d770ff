"""Leads between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import lead_service_pb2 as pb
from penguin_chassis.errors import item_error
from penguin_chassis.faults import Fault
from penguin_chassis.wire import number, stamp, word
from penguin_oltp.domain.leads import Lead
from penguin_oltp.servicers.changes import changes


def new_lead(tenant_id: UUID, item: pb.NewLead, at: datetime) -> Lead:
    """A lead as it begins."""
    return Lead(
        tenant_id=tenant_id,
        id=UUID(item.id),
        email=item.email,
        first_name=item.first_name,
        last_name=item.last_name,
        company=item.company,
        list=item.list,
        custom_fields=dict(item.custom_fields),
        status=word(pb.LeadStatus, item.status, "active"),
        version=1,
        created_at=at,
        updated_at=at,
    )


def lead(row: Lead) -> pb.Lead:
    """A lead as it stands."""
    return pb.Lead(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        email=row.email,
        first_name=row.first_name,
        last_name=row.last_name,
        company=row.company,
        list=row.list,
        custom_fields=row.custom_fields,
        status=number(pb.LeadStatus, row.status),
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_lead(request: pb.UpdateLeadRequest) -> dict[str, Any]:
    """What an update changes."""
    update = request.lead
    return changes(
        request,
        update,
        required=("email", "status"),
        custom_fields=dict(update.custom_fields),
        status=word(pb.LeadStatus, update.status),
    )


def created(answer: Lead | Fault) -> pb.CreateLeadResult:
    """The answer to one item of a batch create."""
    if isinstance(answer, Fault):
        return pb.CreateLeadResult(error=item_error(answer))
    return pb.CreateLeadResult(lead=lead(answer))
