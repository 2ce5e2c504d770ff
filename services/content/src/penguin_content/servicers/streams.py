"""Large bytes in and out, a piece at a time: no upload or download is ever whole in memory, and no transaction is open
while the network is waited for."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import IO
from uuid import UUID

from penguin.content.v1 import content_service_pb2 as pb
from penguin_chassis.faults import InvalidArgument, NotFound
from penguin_chassis.mutations import now
from penguin_chassis.wire import when
from penguin_content.domain.codec import NONE, PIECE, ZSTD, Packed, pack, unpack
from penguin_content.domain.contents import Attachment, Metadata
from penguin_content.domain.reading import derived
from penguin_content.servicers.offload import PARSED, offload
from penguin_content.store.blobs import BlobStore
from penguin_content.store.reading import ReadingStore

CHUNK = 256 * 1024
_CODECS = (NONE, ZSTD)
_FRAME = struct.Struct(">BI")
Chunks = AsyncIterator[tuple[int, bytes]]


class Spool:
    """An upload under way: packed piece by piece into a file that leaves memory beyond 1 MiB and is gone when closed."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=PIECE)  # noqa: SIM115 - closed by its owner
        self._hash = hashlib.sha256()
        self.raw_size = self.stored_size = self.piece_count = 0

    @property
    def sha256(self) -> str:
        """Hash of what has come so far, lower-case hex."""
        return self._hash.hexdigest()

    def add(self, piece: bytes) -> None:
        """Take the next piece; all but the last have PIECE bytes."""
        packed = pack(piece)
        self._hash.update(piece)
        self._file.write(_FRAME.pack(_CODECS.index(packed.codec), len(packed.data)))
        self._file.write(packed.data)
        self.raw_size += len(piece)
        self.stored_size += len(packed.data)
        self.piece_count += 1

    def read(self) -> Iterator[Packed]:
        """The packed pieces, from the first on."""
        self._file.seek(0)
        for _ in range(self.piece_count):
            codec, length = _FRAME.unpack(self._file.read(_FRAME.size))
            yield Packed(_CODECS[codec], self._file.read(length))

    def close(self) -> None:
        """Let it go."""
        self._file.close()


class Uploads:
    """Client streams into blobs."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def receive(self, messages: AsyncIterator[pb.UploadBlobRequest]) -> pb.UploadBlobResponse:
        """Take one upload; raises InvalidArgument (INVALID_FIELD, CHECKSUM_MISMATCH)."""
        start = await _start(messages)
        spool = Spool()
        try:
            await _fill(spool, messages, start.size)
            if spool.raw_size != start.size or spool.sha256 != start.sha256:
                raise _mismatch("sha256" if spool.raw_size == start.size else "size")
            at = now()
            done = await self._blobs.upload(UUID(start.tenant_id), spool, when(start, "claim_by") or at, at)
        finally:
            spool.close()
        return pb.UploadBlobResponse(
            sha256=start.sha256, size=start.size, stored_size=done.stored_size, existed=done.existed
        )


async def _start(messages: AsyncIterator[pb.UploadBlobRequest]) -> pb.UploadBlobStart:
    async for message in messages:
        if message.WhichOneof("part") == "start":
            return message.start
        break
    raise InvalidArgument("An upload begins with its start.", field="start")


async def _fill(spool: Spool, messages: AsyncIterator[pb.UploadBlobRequest], size: int) -> None:
    pending = bytearray()
    received = 0
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise InvalidArgument("An upload has one start.", field="start")
        received += len(message.chunk)
        if received > size:
            raise _mismatch("size")
        pending += message.chunk
        if len(pending) >= PIECE:
            await asyncio.to_thread(spool.add, bytes(pending[:PIECE]))
            del pending[:PIECE]
    if pending or not spool.piece_count:
        await offload(len(pending), spool.add, bytes(pending))


def _mismatch(field: str) -> InvalidArgument:
    return InvalidArgument(
        f"The bytes do not have the {field} that was given.", reason="CHECKSUM_MISMATCH", field=f"start.{field}"
    )


class Downloads:
    """Attachments and raw sources as streams of chunks."""

    def __init__(self, reading: ReadingStore, blobs: BlobStore) -> None:
        self._reading = reading
        self._blobs = blobs

    async def attachment(self, tenant_id: UUID, key: str, position: int, offset: int) -> tuple[Attachment, Chunks]:
        """One attachment and its bytes from `offset`; raises NotFound, InvalidArgument."""
        stored = await self._reading.source(tenant_id, key)
        found = next((a for a in stored.metadata.attachments if a.position == position), None)
        if found is None:
            raise NotFound("attachment", position, field="position")
        _check_offset(offset, found.size)
        if stored.metadata.raw_source:
            data = await offload(PARSED * stored.metadata.raw_size, derived, stored, position)
            return found, _slices(data, offset)
        return found, self._pieces(tenant_id, found, offset)

    async def raw(self, tenant_id: UUID, key: str, offset: int) -> tuple[Metadata, Chunks]:
        """A raw source and its bytes from `offset`; raises NotFound, InvalidArgument."""
        stored = await self._reading.source(tenant_id, key)
        if not stored.metadata.raw_source or stored.body is None:
            raise NotFound("raw source", key, field="storage_key")
        _check_offset(offset, stored.metadata.raw_size)
        data = await offload(stored.metadata.raw_size, unpack, stored.body)
        return stored.metadata, _slices(data, offset)

    async def _pieces(self, tenant_id: UUID, attachment: Attachment, offset: int) -> Chunks:
        """Each piece read and let go before the next; one chunk at least, so that the first message has its place."""
        while True:
            number, start = divmod(offset, PIECE)
            if offset == attachment.size and offset:
                yield offset, b""
                return
            packed = await self._blobs.piece(tenant_id, attachment.sha256, number)
            data = await offload(len(packed.data), unpack, packed)
            async for at, chunk in _slices(data, start):
                yield number * PIECE + at, chunk
            offset = number * PIECE + len(data)
            if offset >= attachment.size:
                return


async def _slices(data: bytes, offset: int) -> Chunks:
    """`data` from `offset` on, in chunks; nothing is one empty chunk."""
    for start in range(offset, max(len(data), offset + 1), CHUNK):
        yield start, data[start : start + CHUNK]


def _check_offset(offset: int, size: int) -> None:
    if offset > size:
        raise InvalidArgument(f"There are only {size} bytes.", field="offset")
