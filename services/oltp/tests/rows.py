"""Rows and requests that OLTP's tests begin with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis.pool import Database


def ahead(seconds: float) -> Timestamp:
    """A moment from now."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return stamp


async def make_tenant(db: Database, policy: str = "hold") -> UUID:
    """A tenant that nothing else uses."""
    tenant = uuid4()
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO tenants (tenant_id, name, status, unknown_outcome_policy, created_at, updated_at)"
            " VALUES ($1, 'Test', 'active', $2, now(), now())",
            tenant,
            policy,
        )
    return tenant


def new_email(**fields: Any) -> pb.NewEmail:
    """A right item of a batch create."""
    return pb.NewEmail(
        **{
            "request_id": str(uuid4()),
            "id": str(uuid4()),
            "recipient": "ada@example.com",
            "sender": "us@sender.example",
            "subject": "Hello",
            "content_storage_key": f"k/{uuid4()}",
        }
        | fields
    )


def create_request(tenant: UUID, *emails: pb.NewEmail, claim_s: float = 3600) -> pb.BatchCreateEmailsRequest:
    """A batch create."""
    return pb.BatchCreateEmailsRequest(
        tenant_id=str(tenant), emails=emails, content_claim_by=ahead(claim_s), content_generation=1
    )
