"""Finds an address in text where it stands by itself: ann@example.com is neither in joann@example.com nor in
ann@example.com.au. What is erased or exported is found by this; another person's must not be."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What may stand right before an address that is not part of a longer one. JSON's escapes, and bytes shown as octal, end in
# what could be; an apostrophe is part of a name after a letter (o'brien@…), and a quotation mark elsewhere.
_BEFORE = r"(^|[^a-z0-9._+'-]|(^|[^a-z0-9])'|\\[nrtbf]|\\u[0-9a-f]{4}|\\[0-7]{3})"
_AFTER = r"($|[^a-z0-9.-]|\.($|[^a-z0-9]))"
_ENDS_BEFORE = re.compile(_BEFORE + r"\Z")
_BEGINS_AFTER = re.compile(_AFTER)
# Characters on either side that are looked at.
_MARGIN = 8
_CODES = (("utf-8", 1), ("utf-16-le", 2), ("utf-16-be", 2))


def pattern(address: str) -> str:
    """A regular expression, PostgreSQL's and Python's, for text in lower case in which the address (in lower case) stands."""
    return f"{_BEFORE}{re.escape(address)}{_AFTER}"


def in_text(text: str, address: str) -> bool:
    """Whether the address (in lower case) stands in a text."""
    lowered = text.lower()
    long = len(address)
    return any(
        _alone(lowered[max(0, at - _MARGIN) : at], lowered[at + long : at + long + _MARGIN])
        for at in _found(lowered, address)
    )


def in_bytes(data: bytes, address: str, *, first: bool = True, last: bool = True) -> bool:
    """Whether bytes show the address as text, in UTF-8 or UTF-16.

    Of a piece that is not the `first` or not the `last` of something larger, what stands at that very end is not judged: it is
    for whoever sees what is next to it.
    """
    lowered = data.lower()
    for code, width in _CODES:
        wanted, margin = address.encode(code), _MARGIN * width
        for at in _found(lowered, wanted):
            ends = at + len(wanted)
            if (at < margin and not first) or (ends + margin > len(lowered) and not last):
                continue
            before, after = lowered[max(0, at - margin) : at], lowered[ends : ends + margin]
            if width == 2:
                # Half a character: one order of bytes, read as the other.
                before, after = b"\0" * (len(before) % 2) + before, after + b"\0" * (len(after) % 2)
            if _alone(before.decode(code, "replace"), after.decode(code, "replace")):
                return True
    return False


def _alone(before: str, after: str) -> bool:
    return _ENDS_BEFORE.search(before) is not None and _BEGINS_AFTER.match(after) is not None


def _found(text: str | bytes, wanted: str | bytes) -> Iterator[int]:
    at = text.find(wanted)  # type: ignore[arg-type]
    while at >= 0:
        yield at
        at = text.find(wanted, at + 1)  # type: ignore[arg-type]
