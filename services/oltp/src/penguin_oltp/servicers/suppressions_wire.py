"""Suppressions between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from penguin.oltp.v1 import suppression_service_pb2 as pb
from penguin_chassis.wire import number, stamp, word
from penguin_oltp.domain.suppressions import Suppression


def new_suppression(tenant_id: UUID, item: pb.NewSuppression, at: datetime) -> Suppression:
    """A suppression as it begins."""
    return Suppression(
        tenant_id=tenant_id,
        id=UUID(item.id),
        address=item.address,
        reason=word(pb.SuppressionReason, item.reason, "manual"),
        version=1,
        created_at=at,
        updated_at=at,
    )


def suppression(row: Suppression) -> pb.Suppression:
    """A suppression as it stands."""
    return pb.Suppression(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        address=row.address,
        reason=number(pb.SuppressionReason, row.reason),
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )
