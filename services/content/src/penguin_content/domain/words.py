"""Makes text out of what mail calls text: charsets that lie, encoded words, bytes that are none of it. It never raises on
hostile input, and what it gives back can always be stored and sent (no surrogates)."""

from __future__ import annotations

import codecs
import re
from email.header import decode_header

# Decoders that are no charset of any mail, and warn or grow slow on hostile bytes.
_NO_CHARSET = frozenset({"unicode-escape", "raw-unicode-escape", "idna", "punycode", "undefined", "mbcs", "oem"})
_CONTROLS = re.compile("[\x00-\x1f\x7f]+")
# Longer headers are given as they stand.
_WORDS_LIMIT = 65_536


def sendable(text: str) -> str:
    """`text` without surrogates."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def label(text: str, limit: int = 255) -> str:
    """One clean line of at most `limit` characters, for names and types that are stored as text."""
    return sendable(_CONTROLS.sub(" ", text[: 8 * limit])).strip()[:limit]


def decoded(data: bytes, charset: str) -> tuple[str, bool]:
    """Bytes as text, and whether every one of them could be read.

    No charset, or an unknown one: UTF-8, or else Latin-1.
    """
    known = _charset(charset)
    if known:
        try:
            return sendable(data.decode(known)), True
        except (UnicodeError, ValueError):
            return sendable(data.decode(known, "replace")), False
    try:
        return data.decode("utf-8"), not charset
    except UnicodeDecodeError:
        return data.decode("latin-1"), False


def _charset(name: str) -> str:
    """Python's name of a charset, or nothing for what is none."""
    try:
        found = codecs.lookup(name).name
        b"".decode(found)
    except (LookupError, ValueError):
        return ""
    return "" if found.replace("_", "-") in _NO_CHARSET else found


def header_text(value: object) -> str:
    """A header field's value as people read it: unfolded, its encoded words decoded."""
    text = re.sub(r"[\r\n]+[ \t]*", " ", str(value))
    if not text.isascii():
        text, _ = decoded(text.encode("utf-8", "surrogateescape"), "")
    if "=?" not in text or len(text) > _WORDS_LIMIT:
        return text
    try:
        parts = decode_header(text)
    except Exception:  # noqa: BLE001 - hostile input; the text as it stands is an answer
        return text
    return "".join(p if isinstance(p, str) else decoded(p, c or "")[0] for p, c in parts)
