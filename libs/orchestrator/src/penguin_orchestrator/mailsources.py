"""Reads messages from .eml files, folders of them, mbox files and tar archives, one at a time and as raw bytes.

What cannot be read is reported in its place and never stops the rest.
"""

from __future__ import annotations

import lzma
import mailbox
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# A message above this is reported, not imported (bytes): it would not pass the tiers' message limit.
MESSAGE_LIMIT = 3 * 1024 * 1024
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Source:
    """One message: where it was found, and its bytes, or why it could not be read."""

    name: str
    raw: bytes = b""
    problem: str = ""


class MailSourceError(Exception):
    """The path holds nothing that can be imported."""


def read(path: Path) -> Iterator[Source]:
    """Every message below `path`; raises MailSourceError where there is none to begin with."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        for file in files:
            yield from _file(file)
    elif path.is_file():
        yield from _file(path)
    else:
        raise MailSourceError(f"{path}: no such file or folder")


def _file(path: Path) -> Iterator[Source]:
    if path.name.endswith(_ARCHIVES):
        yield from _archive(path)
        return
    try:
        with path.open("rb") as file:
            mbox = file.read(5) == b"From "
    except OSError as error:
        yield Source(str(path), problem=f"cannot be read: {type(error).__name__}")
        return
    if mbox:
        yield from _mbox(path)
    else:
        yield _limited(str(path), path.stat().st_size, path.read_bytes)


def _archive(path: Path) -> Iterator[Source]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield _limited(f"{path.name}:{member.name}", member.size, file.read)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        yield Source(str(path), problem=f"the archive is damaged: {type(error).__name__}")


def _mbox(path: Path) -> Iterator[Source]:
    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            try:
                raw = box.get_bytes(key)
            except (OSError, KeyError, ValueError) as error:
                yield Source(f"{path.name}:{key}", problem=f"cannot be read: {type(error).__name__}")
                continue
            yield _limited(f"{path.name}:{key}", len(raw), lambda raw=raw: raw)
    finally:
        box.close()


def _limited(name: str, size: int, read_all: object) -> Source:
    if size > MESSAGE_LIMIT:
        return Source(name, problem=f"larger than {MESSAGE_LIMIT} bytes")
    raw: bytes = read_all()  # type: ignore[operator]
    return Source(name, raw) if raw.strip() else Source(name, problem="empty")
