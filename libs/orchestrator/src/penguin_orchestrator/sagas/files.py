"""Files of sagas in Content, which no row refers to."""

from __future__ import annotations

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_orchestrator.sagas.deeds import Deed


async def drop(deed: Deed, key: str) -> None:
    """Remove one that nobody needs any more, be the tenant closed or not; raises TierError."""
    request = pb.DeleteContentsRequest(tenant_id=str(deed.tenant_id), storage_keys=[key], unclaimed_only=True)
    await deed.call("content", ContentServiceStub, "DeleteContents", request, as_platform=True)
