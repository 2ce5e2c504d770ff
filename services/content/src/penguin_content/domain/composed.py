"""The canonical form of a composed body: the same body is always the same bytes, so that its hash means something.

Version byte 1, the number of fields, their lengths, and their UTF-8 bytes: text, html, then name and value of each header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import accumulate, pairwise

VERSION = 1
_HEAD = struct.Struct(">BI")


@dataclass(frozen=True, slots=True)
class Composed:
    """A body that we wrote; headers in order, repeated ones as often as they stand."""

    text: str
    html: str
    headers: tuple[tuple[str, str], ...] = ()


def to_canonical(body: Composed) -> bytes:
    """The body as bytes."""
    fields = [body.text.encode(), body.html.encode()]
    for name, value in body.headers:
        fields += (name.encode(), value.encode())
    head = _HEAD.pack(VERSION, len(fields))
    return b"".join((head, struct.pack(f">{len(fields)}I", *map(len, fields)), *fields))


def from_canonical(data: bytes) -> Composed:
    """The body that `to_canonical` wrote; raises ValueError for a version it does not know."""
    version, count = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"unknown version {version} of a composed body")
    lengths = struct.unpack_from(f">{count}I", data, _HEAD.size)
    ends = accumulate(lengths, initial=_HEAD.size + 4 * count)
    text, html, *rest = (data[start:end].decode() for start, end in pairwise(ends))
    return Composed(text, html, tuple(zip(rest[::2], rest[1::2], strict=True)))
