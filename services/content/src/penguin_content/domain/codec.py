"""Compresses bytes for storage and brings them back. It chooses "none" where compression would not shrink them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import zstandard

NONE = "none"
ZSTD = "zstd"
LEVEL = 3
# Larger blobs are stored in pieces of this many bytes, so that none is ever whole in memory.
PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Packed:
    """Bytes as they are stored: the codec, and what it made of them."""

    codec: str
    data: bytes


class _Contexts(threading.local):
    """zstd contexts, which no two threads may share."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def pack(raw: bytes) -> Packed:
    """One zstd frame of `raw`, or `raw` itself where that is no longer."""
    frame = _contexts.compressor.compress(raw)
    return Packed(ZSTD, frame) if len(frame) < len(raw) else Packed(NONE, raw)


def unpack(packed: Packed) -> bytes:
    """The bytes that were packed; raises ValueError for a codec it does not know."""
    if packed.codec == ZSTD:
        return _contexts.decompressor.decompress(packed.data)
    if packed.codec == NONE:
        return packed.data
    raise ValueError(f"unknown codec {packed.codec}")


def pieces(raw: bytes) -> Iterator[bytes]:
    """`raw` cut into pieces; nothing is one empty piece."""
    for start in range(0, max(1, len(raw)), PIECE):
        yield raw[start : start + PIECE]


def joined(packed: Iterable[Packed]) -> bytes:
    """The bytes of all pieces, in their order."""
    return b"".join(map(unpack, packed))
