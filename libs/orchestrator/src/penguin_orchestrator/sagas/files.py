"""Files of sagas in Content, which no row refers to."""

from __future__ import annotations

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.sagas.deeds import Deed


async def drop(deed: Deed, key: str) -> None:
    """Remove one that nobody needs any more, be the tenant closed or not; raises TierError."""
    request = pb.DeleteContentsRequest(tenant_id=str(deed.tenant_id), storage_keys=[key], unclaimed_only=True)
    # Each time anew: what was stored since the last time is to go as well, and a known answer would delete nothing.
    await deed.call("content", ContentServiceStub, "DeleteContents", request, keys.new_id(), as_platform=True)
