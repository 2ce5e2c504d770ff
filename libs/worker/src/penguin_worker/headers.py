"""Writes header fields as they go over the wire: folded, seven-bit, and never with a line break of their writer's.

Python's own folding breaks long URLs and ids into encoded words, so fields are laid out here. It parses nothing.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

LINE = 76
# Longer than this, a word would come too near to the 998 characters that SMTP allows a line.
LONGEST_WORD = 900
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_PLAIN = re.compile(r"[ -~]*")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")
_ADDRESS = re.compile(r"[!-~]+@[!-~]+")
_FORBIDDEN_IN_ADDRESS = re.compile(r'[<>()\[\],;:\\"]')
_NAME = re.compile(r"[!-9;-~]{1,70}")
_SIMPLE_FILENAME = re.compile(r"[A-Za-z0-9!#$&+.^_{}~ -]{1,60}")


class UnsendableError(Exception):
    """The email cannot be put on the wire as it is; the text is a short class."""


def one_line(text: str) -> str:
    """Text without control characters: each run of them becomes a space, so that no header can be slipped in."""
    return _CONTROL.sub(" ", text)


def valid_name(name: str) -> bool:
    """Whether it may be a header's name."""
    return _NAME.fullmatch(name) is not None


def check_address(address: str) -> str:
    """The address, if it is one that ASCII SMTP takes; raises UnsendableError."""
    local = address.rpartition("@")[0]
    if len(address) > 320 or not _ADDRESS.fullmatch(address) or _FORBIDDEN_IN_ADDRESS.search(local):
        raise UnsendableError("address_invalid")
    return address


def text(name: str, value: str) -> bytes:
    """A field of words for people, read back exactly (control characters apart)."""
    value = one_line(value)
    if _is_plain(value):
        return _folded(name, value)
    return _encoded(name, value)


def structured(name: str, value: str) -> bytes:
    """A field with a syntax of its own: folded at spaces only, and left in peace otherwise where that is possible."""
    value = one_line(value).strip()
    if _PLAIN.fullmatch(value) and all(len(word) <= LONGEST_WORD for word in value.split(" ")):
        return _folded(name, value)
    return _encoded(name, value)


def address(name: str, display: str, mailbox: str) -> bytes:
    """A field with one mailbox; raises UnsendableError for an address that is none."""
    bracketed = f"<{check_address(mailbox)}>"
    display = one_line(display).strip()
    if not display:
        return f"{name}: {mailbox}".encode()
    if not _is_plain(display) or len(display) > 60:
        field = _encoded(name, display)
    elif _ATOMS.fullmatch(display):
        field = f"{name}: {display}".encode()
    else:
        quoted = display.replace("\\", "\\\\").replace('"', '\\"')
        field = f'{name}: "{quoted}"'.encode()
    last = len(field) - (field.rfind(b"\r\n") + 2 if b"\r\n" in field else 0)
    joint = " " if last + 1 + len(bracketed) <= LINE else "\r\n "
    return field + f"{joint}{bracketed}".encode()


def parameter(name: str, value: str) -> str:
    """A parameter of a field, led by its semicolon and its fold; any text, read back exactly (RFC 2231)."""
    if _SIMPLE_FILENAME.fullmatch(value) and value == value.strip():
        return f';\r\n {name}="{value}"'
    encoded = quote(value, safe="")
    if len(encoded) <= 50:
        return f";\r\n {name}*=utf-8''{encoded}"
    pieces = re.findall(r"(?:%[0-9A-F]{2}|[^%]){1,18}", encoded)
    first = f";\r\n {name}*0*=utf-8''{pieces[0]}"
    return first + "".join(f";\r\n {name}*{n}*={piece}" for n, piece in enumerate(pieces[1:], 1))


def _is_plain(value: str) -> bool:
    return (
        _PLAIN.fullmatch(value) is not None
        and "=?" not in value
        and "  " not in value
        and value == value.strip()
        and all(len(word) <= LINE - 6 for word in value.split(" "))
    )


def _folded(name: str, value: str) -> bytes:
    lines = []
    line = f"{name}:"
    for word in value.split(" "):
        if word and line.strip() and not line.endswith(":") and len(line) + 1 + len(word) > LINE:
            lines.append(line)
            line = ""
        line += f" {word}"
    return "\r\n".join([*lines, line]).encode()


def _encoded(name: str, value: str) -> bytes:
    """Encoded words (RFC 2047), none of which splits a character."""
    words: list[str] = []
    room = (LINE - len(name) - 2 - 12) // 4 * 3
    # A field whose name leaves no room begins on its second line.
    lead = "" if room >= 12 else "\r\n"
    piece = b""
    for character in value:
        more = character.encode()
        limit = room if not words and not lead else 45
        if len(piece) + len(more) > limit:
            words.append(base64.b64encode(piece).decode())
            piece = b""
        piece += more
    words.append(base64.b64encode(piece).decode())
    return (f"{name}:{lead} " + "\r\n ".join(f"=?utf-8?b?{word}?=" for word in words)).encode()
