"""Legal holds of a tier under test, put and released as its clients do."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from uuid import UUID, uuid4

from penguin.tier.v1 import erasure_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_testkit.calling import TierClient

SUBJECT_KEY = bytes(range(32))


def subject(address: str) -> str:
    """Whom a hold on that address names."""
    return hmac.new(SUBJECT_KEY, address.lower().encode(), hashlib.sha256).hexdigest()


async def put_hold(client: TierClient, tenant: UUID, **on: Any) -> pb.LegalHold:
    """Put a hold on what is named."""
    request = pb.PutLegalHoldRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), id=str(uuid4()), reason="Case 7", **on
    )
    reply: pb.PutLegalHoldResponse = await client.call(TierServiceStub(client.channel).PutLegalHold, request)
    return reply.hold


async def release_hold(client: TierClient, tenant: UUID, hold: pb.LegalHold) -> None:
    """End it."""
    request = pb.ReleaseLegalHoldRequest(tenant_id=str(tenant), request_id=str(uuid4()), hold_id=hold.id)
    await client.call(TierServiceStub(client.channel).ReleaseLegalHold, request)
