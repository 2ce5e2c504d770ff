"""Reads a raw RFC 5322 message as far as it can be read. It never raises: what it cannot make out is listed as a defect,
and the raw source, which it never changes, remains the truth."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.generator import BytesGenerator
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from email.utils import collapse_rfc2231_value
from typing import cast

from penguin_content.domain.words import decoded, header_text, label

# More parts than that are left to the raw source.
PARTS_LIMIT = 1_000
DEFECTS_LIMIT = 20
# The parser holds each line against every open boundary; beyond this product a message is made to cost time.
_WORK_LIMIT = 10_000_000
# Each line that may open a part costs a message of its own.
_DELIMITERS_LIMIT = 20_000
# Parameters are parsed in quadratic time (bytes).
_FIELD_LIMIT = 4_096
_FIELD = re.compile(rb"(?i)(?:\A|[\r\n])content-(?:type|disposition)[ \t]*:((?:[^\r\n]++|(?:\r\n|\r|\n)[ \t])*+)")
_CAMEL = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is no body: what it is called, and its decoded bytes."""

    filename: str
    mime_type: str
    disposition: str
    content_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a message is seen to hold; `defects` in a few words each."""

    text: str = ""
    html: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Part, ...] = ()
    defects: tuple[str, ...] = ()


def parse(raw: bytes) -> Parsed:
    """Read `raw`. Attachments are every leaf part but the first plain and the first HTML text without a file name."""
    if _laborious(raw):
        return _headers_only(raw, "too complex to be parsed")
    try:
        return _Reading(BytesParser(policy=compat32).parsebytes(raw)).result()
    except Exception as error:  # noqa: BLE001 - mail is hostile input, and the parser has no closed list of errors
        return _headers_only(raw, f"not parsed ({type(error).__name__})")


def _laborious(raw: bytes) -> bool:
    boundaries = raw.lower().count(b"boundary")
    if boundaries * (raw.count(b"\n") + raw.count(b"\r")) > _WORK_LIMIT:
        return True
    if boundaries and raw.count(b"\n--") + raw.count(b"\r--") > _DELIMITERS_LIMIT:
        return True
    return any(len(field[1]) > _FIELD_LIMIT for field in _FIELD.finditer(raw))


def _headers_only(raw: bytes, defect: str) -> Parsed:
    """What is left where the whole cannot be parsed."""
    try:
        head = BytesParser(policy=compat32).parsebytes(raw, headersonly=True)
        return Parsed(headers=_headers(head), defects=(defect,))
    except Exception:  # noqa: BLE001 - see parse
        return Parsed(defects=(defect, "headers not parsed"))


def _headers(message: Message) -> tuple[tuple[str, str], ...]:
    return tuple((label(name, 998), header_text(value)) for name, value in message.raw_items())


class _Reading:
    """One message being read."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._bodies: dict[str, str] = {}
        self._attachments: list[Part] = []
        # A dict keeps their order, and each once.
        self._defects: dict[str, None] = {}

    def result(self) -> Parsed:
        for count, part in enumerate(_leaves(self._message)):
            if count >= PARTS_LIMIT:
                self._flaw(f"more than {PARTS_LIMIT} parts")
                break
            self._leaf(part)
        for message in _all(self._message):
            for defect in message.defects:
                self._flaw(_CAMEL.sub(" ", type(defect).__name__.removesuffix("Defect")).lower())
        return Parsed(
            self._bodies.get("text/plain", ""), self._bodies.get("text/html", ""), _headers(self._message),
            tuple(self._attachments), tuple(self._defects)[:DEFECTS_LIMIT],
        )  # fmt: skip

    def _flaw(self, words: str) -> None:
        self._defects[words] = None

    def _leaf(self, part: Message) -> None:
        kind = part.get_content_type()
        if kind.startswith("multipart/"):
            kind = "text/plain"  # it has no parts: whatever it holds is to be read as it stands
        data = self._data(part)
        filename = self._filename(part)
        attached = part.get_content_disposition() == "attachment"
        if kind in {"text/plain", "text/html"} and not (filename or attached or kind in self._bodies):
            self._bodies[kind] = self._text(part, data)
            return
        inline = not attached and (part.get_content_disposition() == "inline" or "content-id" in part)
        content_id = label(header_text(part.get("content-id", ""))).strip("<> ")
        self._attachments.append(
            Part(
                filename,
                label(kind) or "application/octet-stream",
                "inline" if inline else "attachment",
                content_id,
                data,
            )
        )

    def _text(self, part: Message, data: bytes) -> str:
        try:
            charset = part.get_content_charset("")
        except Exception:  # noqa: BLE001 - see parse
            charset = "?"
        text, whole = decoded(data, charset)
        if not whole:
            self._flaw("text not all in its charset")
        return text

    def _data(self, part: Message) -> bytes:
        """The decoded bytes of a leaf; an enclosed message as it is written out."""
        try:
            if part.is_multipart():
                return b"".join(map(_written, _inner(part)))
            data = part.get_payload(decode=True)
        except Exception as error:  # noqa: BLE001 - see parse
            self._flaw(f"part not decoded ({type(error).__name__})")
            return b""
        return data if isinstance(data, bytes) else b""

    def _filename(self, part: Message) -> str:
        try:
            name = part.get_param("filename", None, "content-disposition") or part.get_param("name", None)
            return label(header_text(collapse_rfc2231_value(name))) if name else ""
        except Exception:  # noqa: BLE001 - see parse
            self._flaw("file name not decoded")
            return "unnamed"


def _written(message: Message) -> bytes:
    out = io.BytesIO()
    BytesGenerator(out, mangle_from_=False, maxheaderlen=0, policy=compat32).flatten(message)
    return out.getvalue()


def _inner(message: Message) -> list[Message]:
    """The parts of a message; none for a leaf, whose payload is not looked at (get_payload would decode it)."""
    if not message.is_multipart():
        return []
    return [part for part in cast("list[object]", message.get_payload()) if isinstance(part, Message)]


def _leaves(message: Message) -> Iterator[Message]:
    """Parts without parts, in order; an enclosed message is one. A stack and no recursion: depth is the sender's choice."""
    stack = [message]
    while stack:
        part = stack.pop()
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            stack.extend(reversed(_inner(part)))
        else:
            yield part


def _all(message: Message) -> Iterator[Message]:
    stack = [message]
    while stack:
        part = stack.pop()
        yield part
        stack.extend(reversed(_inner(part)))
