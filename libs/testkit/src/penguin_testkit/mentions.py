"""Where a tier under test says that others mention a person."""

from __future__ import annotations

from uuid import UUID, uuid4

from penguin.tier.v1 import erasure_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_testkit.calling import TierClient
from penguin_testkit.holds import subject


async def mentioned(client: TierClient, tenant: UUID, address: str) -> set[tuple[str, str, str]]:
    """Erase the person; table, key and place of each mention."""
    found: set[tuple[str, str, str]] = set()
    request = pb.EraseSubjectRequest(
        tenant_id=str(tenant), erasure_id=str(uuid4()), subject=subject(address), address=address, chain_head="0" * 64
    )
    while True:
        request.request_id = str(uuid4())
        reply = await client.call(TierServiceStub(client.channel).EraseSubject, request)
        found |= {(each.table, each.key, each.place) for each in reply.mentions}
        request.cursor = reply.cursor
        if not reply.cursor:
            return found
