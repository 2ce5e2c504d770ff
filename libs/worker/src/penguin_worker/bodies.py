"""Reads what is to be sent from Content: bodies in batches, attachment bytes once per tenant and hash, within a limit."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin_orchestrator.blobs import download_attachment
from penguin_orchestrator.clients import Tier
from penguin_worker.jobs import Retry
from penguin_worker.mime import Attachment, encode_attachment

PER_CALL = 500
# A reply that is full is asked to go on; each one brings at least one body.
MOST_CALLS = 500


class Bodies:
    """Contents of one Content tier, and the encoded bytes of attachments lately used."""

    def __init__(self, content: Tier, cache_bytes: int) -> None:
        self._content = content
        self._cache = _Cache(cache_bytes)
        self._fetching: dict[tuple[UUID, str], asyncio.Task[bytes]] = {}

    async def get(self, tenant_id: UUID, keys: Sequence[str]) -> dict[str, pb.Content]:
        """Bodies by key, without attachment bytes; keys that the tenant does not have are left out. Raises TierError."""
        found: dict[str, pb.Content] = {}
        wanted = list(dict.fromkeys(keys))
        for _ in range(MOST_CALLS):
            if not wanted:
                break
            request = pb.BatchGetContentsRequest(
                tenant_id=str(tenant_id), storage_keys=wanted[:PER_CALL], view=pb.CONTENT_VIEW_BODY
            )
            reply = await self._content.call(self._content.stub(ContentServiceStub).BatchGetContents, request)
            found |= {content.metadata.storage_key: content for content in reply.contents}
            wanted = [*reply.deferred_keys, *wanted[PER_CALL:]]
            if reply.deferred_keys and not reply.contents:
                # A body that fits into no reply.
                raise Retry("content_too_large")
        return found

    async def attachments(self, tenant_id: UUID, content: pb.Content) -> tuple[Attachment, ...]:
        """A content's attachments with their bytes; raises TierError, Retry."""
        listed = content.attachments or content.metadata.attachments
        key = content.metadata.storage_key
        encoded = await asyncio.gather(*(self._encoded(tenant_id, key, attachment) for attachment in listed))
        return tuple(
            Attachment(a.filename, a.mime_type, data, a.disposition == pb.DISPOSITION_INLINE, a.content_id)
            for a, data in zip(listed, encoded, strict=True)
        )

    async def _encoded(self, tenant_id: UUID, storage_key: str, attachment: pb.Attachment) -> bytes:
        cached = self._cache.get((tenant_id, attachment.sha256))
        if cached is not None:
            return cached
        # One download at a time for the same bytes, however many emails wait for them.
        name = (tenant_id, attachment.sha256)
        task = self._fetching.get(name)
        if task is None:
            task = self._fetching[name] = asyncio.create_task(self._fetch(tenant_id, storage_key, attachment))
            task.add_done_callback(lambda ended: self._fetched(name, ended))
        return await asyncio.shield(task)

    def _fetched(self, name: tuple[UUID, str], ended: asyncio.Task[bytes]) -> None:
        self._fetching.pop(name, None)
        if not ended.cancelled():
            # Where all who waited have gone nobody else would ask, and Python complains of that with the whole trace.
            ended.exception()

    async def _fetch(self, tenant_id: UUID, storage_key: str, attachment: pb.Attachment) -> bytes:
        data = await download_attachment(self._content, tenant_id, storage_key, attachment.position)
        if hashlib.sha256(data).hexdigest() != attachment.sha256:
            raise Retry("attachment_damaged")
        encoded = encode_attachment(data)
        self._cache.put((tenant_id, attachment.sha256), encoded)
        return encoded


class _Cache:
    """The attachments used last, up to so many bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._held: OrderedDict[tuple[UUID, str], bytes] = OrderedDict()

    def get(self, key: tuple[UUID, str]) -> bytes | None:
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def put(self, key: tuple[UUID, str], data: bytes) -> None:
        if len(data) > self._limit or key in self._held:
            return
        self._held[key] = data
        self._size += len(data)
        while self._size > self._limit:
            self._size -= len(self._held.popitem(last=False)[1])
