"""Builds the message that goes over the wire (RFC 5322, 2045), such that its decoded parts are byte for byte what is
stored. Pure: the clock is passed in. It refuses nothing that Content stores, only addresses that are none.

Attachments are always base64; one of a type that may not be base64 (message/*, multipart/*) travels as
application/octet-stream, so that no relay rewrites it. Line breaks of a text that are not CRLF are data, and encoded.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime

from penguin_worker import headers

CRLF = b"\r\n"
_LINE = 76
_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]*/[a-z0-9][a-z0-9.+_-]*", re.IGNORECASE)
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,255}")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,900}>")
# What is ours to say, or the receiving servers'. Content headers are added to these, never put in their place.
RESERVED = frozenset(
    [
        "from",
        "to",
        "cc",
        "bcc",
        "sender",
        "date",
        "subject",
        "message-id",
        "mime-version",
        "return-path",
        "received",
        "delivered-to",
        "dkim-signature",
        "list-unsubscribe",
        "list-unsubscribe-post",
    ]
)
RESERVED_PREFIXES = ("content-", "resent-", "arc-", "x-penguin-")


@dataclass(frozen=True)
class Attachment:
    """An attachment, its bytes encoded already (`encode_attachment`), so that a campaign encodes them once."""

    filename: str
    mime_type: str
    encoded: bytes = field(repr=False)
    inline: bool = False
    content_id: str = ""


@dataclass(frozen=True)
class Letter:
    """An email ready to be written out."""

    email_id: str
    tenant_id: str
    message_id: str
    sender: str
    recipient: str
    subject: str
    sender_name: str = ""
    recipient_name: str = ""
    text: str = ""
    html: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True)
class _Part:
    fields: tuple[bytes, ...]
    body: bytes
    kind: str

    def render(self) -> bytes:
        return CRLF.join((*self.fields, b"", self.body))


def check(letter: Letter) -> None:
    """Raise UnsendableError now for what `build` would refuse."""
    headers.check_address(letter.sender)
    headers.check_address(letter.recipient)
    if not _MESSAGE_ID.fullmatch(letter.message_id):
        raise headers.UnsendableError("message_id_invalid")


def build(letter: Letter, at: datetime, unsubscribe_url: str = "") -> bytes:
    """The whole message, lines ended by CRLF, seven-bit; `at` is its Date. Raises UnsendableError."""
    check(letter)
    fields = [
        headers.address("From", letter.sender_name, letter.sender),
        headers.address("To", letter.recipient_name, letter.recipient),
        headers.text("Subject", letter.subject),
        f"Date: {format_datetime(at)}".encode(),
        f"Message-ID: {letter.message_id}".encode(),
        *_unsubscribe(letter, unsubscribe_url),
        *(headers.structured(name, value) for name, value in letter.headers if _allowed(name)),
        b"MIME-Version: 1.0",
    ]
    return CRLF.join((*fields, _tree(letter).render()))


def encode_attachment(data: bytes) -> bytes:
    """Base64 in lines, as `Attachment.encoded` holds it."""
    step = _LINE // 4 * 3
    return CRLF.join(binascii.b2a_base64(data[i : i + step], newline=False) for i in range(0, len(data), step))


def _allowed(name: str) -> bool:
    lower = name.lower()
    return headers.valid_name(name) and lower not in RESERVED and not lower.startswith(RESERVED_PREFIXES)


def _unsubscribe(letter: Letter, template: str) -> list[bytes]:
    domain = letter.sender.rpartition("@")[2]
    ways = [f"<mailto:unsubscribe@{domain}?subject={letter.email_id}>"]
    if not template:
        return [headers.structured("List-Unsubscribe", ways[0])]
    url = template.replace("{tenant_id}", letter.tenant_id).replace("{email_id}", letter.email_id)
    ways.insert(0, f"<{url}>")
    return [
        headers.structured("List-Unsubscribe", ", ".join(ways)),
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ]


def _tree(letter: Letter) -> _Part:
    """mixed > related > alternative, each only where it holds more than one part."""
    token = hashlib.sha256(letter.message_id.encode()).hexdigest()[:24]
    bodies = [("plain", letter.text)] if letter.text or not letter.html else []
    if letter.html:
        bodies.append(("html", letter.html))
    related = [a for a in letter.attachments if letter.html and a.inline and _CONTENT_ID.fullmatch(a.content_id)]
    others = [a for a in letter.attachments if a not in related]
    alone = len(bodies) == 1 and not letter.attachments
    part = _multipart("alternative", token, [_text(kind, value, alone) for kind, value in bodies])
    part = _multipart("related", token, [part, *map(_file, related)])
    return _multipart("mixed", token, [part, *map(_file, others)])


def _multipart(kind: str, token: str, parts: Sequence[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    # "=_" stands in no encoded body, neither in base64 nor in quoted-printable: no search for a free boundary.
    boundary = f"=_{kind}_{token}"
    root = f'; type="{parts[0].kind}"' if kind == "related" else ""
    line = f"--{boundary}".encode()
    body = b"".join(line + CRLF + part.render() + CRLF for part in parts) + line + b"--" + CRLF
    content_type = f'Content-Type: multipart/{kind}{root};\r\n boundary="{boundary}"'.encode()
    return _Part((content_type,), body, f"multipart/{kind}")


def _text(kind: str, value: str, alone: bool) -> _Part:
    data = value.encode()
    encoding, body = _readable(data, alone)
    content_type = f"Content-Type: text/{kind}; charset=utf-8".encode()
    return _Part((content_type, b"Content-Transfer-Encoding: " + encoding), body, f"text/{kind}")


def _readable(data: bytes, alone: bool) -> tuple[bytes, bytes]:
    """Quoted-printable where it is no longer than base64. A part that stands alone is ended by the message's own CRLF,
    which must not become part of it."""
    quoted = CRLF.join(_quoted(line) for line in data.split(CRLF))
    if len(quoted) <= _base64_size(len(data)) or not data:
        if not alone or not quoted or quoted.endswith(CRLF):
            return b"quoted-printable", quoted
        if len(quoted) - (quoted.rfind(CRLF) + 2 if CRLF in quoted else 0) < _LINE:
            return b"quoted-printable", quoted + b"=" + CRLF
    return b"base64", encode_attachment(data) + CRLF


def _base64_size(size: int) -> int:
    return -(-size // 57) * 2 + -(-size // 3) * 4


def _quoted(line: bytes) -> bytes:
    return binascii.b2a_qp(line, quotetabs=False, istext=False).replace(b"=\n", b"=\r\n")


def _file(attachment: Attachment) -> _Part:
    kind = attachment.mime_type
    if not _TYPE.fullmatch(kind) or kind.lower().startswith(("message/", "multipart/")):
        kind = "application/octet-stream"
    name = attachment.filename
    disposition = "inline" if attachment.inline else "attachment"
    fields = [
        f"Content-Type: {kind}".encode(),
        b"Content-Transfer-Encoding: base64",
        f"Content-Disposition: {disposition}{headers.parameter('filename', name) if name else ''}".encode(),
    ]
    if _CONTENT_ID.fullmatch(attachment.content_id):
        fields.append(f"Content-ID: <{attachment.content_id}>".encode())
    return _Part(tuple(fields), attachment.encoded, kind)
