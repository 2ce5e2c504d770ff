"""ContentService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as pb
from penguin.content.v1 import content_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.paging import page_size, page_start
from penguin_chassis.pool import Database
from penguin_chassis.wire import when, word
from penguin_content.domain.contents import storable
from penguin_content.servicers import contents_wire as wire
from penguin_content.servicers.offload import offload
from penguin_content.servicers.streams import Downloads, Uploads
from penguin_content.store.blobs import BlobStore
from penguin_content.store.contents import ContentStore, Sparing
from penguin_content.store.reading import ReadingStore


class ContentServicer(content_service_pb2_grpc.ContentServiceServicer):
    """Bodies, headers and attachments under opaque keys."""

    def __init__(self, db: Database) -> None:
        blobs = BlobStore(db)
        self._contents = ContentStore(db)
        self._reading = ReadingStore(db)
        self._uploads = Uploads(blobs)
        self._downloads = Downloads(self._reading, blobs)

    async def BatchPutContents(self, request: pb.BatchPutContentsRequest, context: Any) -> pb.BatchPutContentsResponse:
        put = await offload(wire.put_load(request), wire.put, request, now())
        answers = await self._contents.put_batch(put.tenant_id, put.items, put.blobs, put.terms, put.gate)
        return wire.put_reply(answers)

    async def ClaimContents(self, request: pb.ClaimContentsRequest, context: Any) -> pb.ClaimContentsResponse:
        done = await self._contents.claim(step_of(request), list(filter(storable, request.storage_keys)))
        unheard = [key for key in request.storage_keys if not storable(key)]
        return pb.ClaimContentsResponse(claimed=done.claimed, missing_keys=[*done.missing, *unheard])

    async def DeleteContents(self, request: pb.DeleteContentsRequest, context: Any) -> pb.DeleteContentsResponse:
        keys = list(filter(storable, request.storage_keys))
        sparing = Sparing(request.unclaimed_only, when(request, "quarantined_before"))
        done = await self._contents.delete(step_of(request), keys, sparing)
        return pb.DeleteContentsResponse(
            deleted=done.deleted, claimed_keys=done.claimed, spared_keys=done.spared, held_keys=done.held
        )

    async def QuarantineContents(
        self, request: pb.QuarantineContentsRequest, context: Any
    ) -> pb.QuarantineContentsResponse:
        done = await self._contents.quarantine(step_of(request), list(filter(storable, request.storage_keys)))
        return pb.QuarantineContentsResponse(quarantined=done.quarantined, early_keys=done.early)

    async def ListQuarantinedContents(
        self, request: pb.ListQuarantinedContentsRequest, context: Any
    ) -> pb.ListQuarantinedContentsResponse:
        size = page_size(request.page_size)
        found = await self._reading.list_quarantined(
            UUID(request.tenant_id),
            after=page_start(request, wire.place, None),
            limit=size + 1,
            before=when(request, "quarantined_before"),
        )
        return wire.quarantined_reply(request, found, size)

    async def GetContent(self, request: pb.GetContentRequest, context: Any) -> pb.GetContentResponse:
        wanted = wire.wanted(request)
        stored = await self._reading.get(UUID(request.tenant_id), wire.key(request), wanted)
        return await offload(wire.load(stored), wire.get_reply, stored, wanted)

    async def BatchGetContents(self, request: pb.BatchGetContentsRequest, context: Any) -> pb.BatchGetContentsResponse:
        wanted = wire.wanted(request)
        keys = list(filter(storable, request.storage_keys))
        batch = await self._reading.get_many(UUID(request.tenant_id), keys, wanted)
        reply = await offload(sum(map(wire.load, batch.found)), wire.batch_get_reply, batch, wanted)
        reply.missing_keys.extend(key for key in request.storage_keys if not storable(key))
        return reply

    async def ListContents(self, request: pb.ListContentsRequest, context: Any) -> pb.ListContentsResponse:
        size = page_size(request.page_size)
        found = await self._reading.list_page(
            UUID(request.tenant_id),
            after=page_start(request, wire.place, None),
            limit=size + 1,
            state=word(pb.ContentState, request.state),
        )
        return wire.page_reply(request, found, size)

    async def UploadBlob(
        self, request_iterator: AsyncIterator[pb.UploadBlobRequest], context: Any
    ) -> pb.UploadBlobResponse:
        return await self._uploads.receive(request_iterator)

    async def DownloadAttachment(
        self, request: pb.DownloadAttachmentRequest, context: Any
    ) -> AsyncIterator[pb.DownloadAttachmentResponse]:
        first, chunks = await self._downloads.attachment(
            UUID(request.tenant_id), wire.key(request), request.position, request.offset
        )
        head: pb.Attachment | None = wire.attachment(first)
        async for offset, chunk in chunks:
            yield pb.DownloadAttachmentResponse(attachment=head, offset=offset, chunk=chunk)
            head = None

    async def DownloadRaw(self, request: pb.DownloadRawRequest, context: Any) -> AsyncIterator[pb.DownloadRawResponse]:
        first, chunks = await self._downloads.raw(UUID(request.tenant_id), wire.key(request), request.offset)
        head: pb.ContentMetadata | None = wire.metadata(first)
        async for offset, chunk in chunks:
            yield pb.DownloadRawResponse(metadata=head, offset=offset, chunk=chunk)
            head = None
