"""Domains between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import domain_service_pb2 as pb
from penguin_chassis.wire import number, stamp, text, uuid_or_none, word
from penguin_oltp.domain.domains import DnsRecord, Domain
from penguin_oltp.servicers.changes import changes


def new_domain(tenant_id: UUID, item: pb.NewDomain, at: datetime) -> Domain:
    """A sending domain as it begins."""
    return Domain(
        tenant_id=tenant_id,
        id=UUID(item.id),
        domain=item.domain,
        verification_status=word(pb.DomainVerification, item.verification_status, "pending"),
        dns_records=_records(item),
        is_primary=item.is_primary,
        company_id=uuid_or_none(item.company_id),
        version=1,
        created_at=at,
        updated_at=at,
    )


def domain(row: Domain) -> pb.Domain:
    """A sending domain as it stands."""
    return pb.Domain(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        domain=row.domain,
        verification_status=number(pb.DomainVerification, row.verification_status),
        dns_records=[pb.DnsRecord(type=r.type, name=r.name, value=r.value) for r in row.dns_records],
        is_primary=row.is_primary,
        company_id=text(row.company_id),
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_domain(request: pb.UpdateDomainRequest) -> dict[str, Any]:
    """What an update changes."""
    update = request.domain
    return changes(
        request,
        update,
        required=("domain", "verification_status"),
        verification_status=word(pb.DomainVerification, update.verification_status),
        dns_records=_records(update),
        company_id=uuid_or_none(update.company_id),
    )


def _records(message: pb.NewDomain | pb.DomainUpdate) -> tuple[DnsRecord, ...]:
    return tuple(DnsRecord(r.type, r.name, r.value) for r in message.dns_records)
