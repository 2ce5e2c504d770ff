"""An append-only spool of received messages: length-prefixed, checksummed frames in numbered segments. It never
deduplicates, never rewrites, and a reader never sees half a message."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

_FRAME = struct.Struct(">4sIII")  # magic, bytes of the envelope, bytes of the content, CRC-32 of both
_MAGIC = b"PMS1"
_SEGMENT_GLOB = "segment-*.spool"
DEFAULT_SEGMENT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One accepted message: the SMTP envelope, when it was accepted (UTC), and the bytes as they came."""

    sender: str
    recipients: tuple[str, ...]
    received_at: datetime
    content: bytes


class SpoolWriter:
    """Appends messages. Each writer begins a segment of its own, so a torn end of an earlier run stays harmless."""

    def __init__(self, directory: Path, *, fsync: bool = False, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> None:
        self._directory = directory
        self._fsync = fsync
        self._segment_bytes = segment_bytes
        self._written = 0
        self._file = -1
        directory.mkdir(parents=True, exist_ok=True)

    def append(self, sender: str, recipients: Sequence[str], content: bytes, received_at: datetime) -> None:
        """Write one message; on return it is with the kernel, or on the disk if `fsync` was asked for. OSError if not."""
        envelope = json.dumps({"from": sender, "to": list(recipients), "at": received_at.isoformat()}).encode()
        checksum = zlib.crc32(content, zlib.crc32(envelope))
        frame = b"".join((_FRAME.pack(_MAGIC, len(envelope), len(content), checksum), envelope, content))
        if self._file < 0 or self._written >= self._segment_bytes:
            self._open_segment()
        written = os.write(self._file, frame)
        if written != len(frame):
            # A full disk: the torn frame ends this segment, and the message is not acknowledged.
            self.close()
            raise OSError(f"only {written} of {len(frame)} bytes could be written")
        if self._fsync:
            os.fsync(self._file)
        self._written += written

    def close(self) -> None:
        """Close the current segment. Closing twice is no error."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open_segment(self) -> None:
        self.close()
        number = max((_segment_number(path) for path in self._directory.glob(_SEGMENT_GLOB)), default=0)
        while True:
            number += 1
            try:
                path = self._directory / f"segment-{number:08d}.spool"
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:
                continue
            self._written = 0
            return


def read_messages(directory: Path) -> Iterator[ReceivedMessage]:
    """Every message in order of acceptance, also while a server is appending. A torn frame ends its segment."""
    for path in sorted(directory.glob(_SEGMENT_GLOB), key=_segment_number):
        with path.open("rb") as segment:
            yield from _read_segment(segment)


def _read_segment(segment: BinaryIO) -> Iterator[ReceivedMessage]:
    while len(header := segment.read(_FRAME.size)) == _FRAME.size:
        magic, envelope_length, content_length, checksum = _FRAME.unpack(header)
        if magic != _MAGIC:
            return
        envelope, content = segment.read(envelope_length), segment.read(content_length)
        if len(envelope) + len(content) != envelope_length + content_length:
            return
        if zlib.crc32(content, zlib.crc32(envelope)) != checksum:
            return
        fields = json.loads(envelope)
        received_at = datetime.fromisoformat(fields["at"]).astimezone(UTC)
        yield ReceivedMessage(fields["from"], tuple(fields["to"]), received_at, content)


def _segment_number(path: Path) -> int:
    digits = path.stem.removeprefix("segment-")
    return int(digits) if digits.isdigit() else 0
