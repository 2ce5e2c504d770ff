"""Looks for a person's address in what is stored. It finds the address wherever a reader would see it: in what was composed,
in a raw message as it stands and as it is decoded, in attachments of whatever kind as far as they show it as text."""

from __future__ import annotations

from penguin_chassis.addresses import in_bytes, in_text
from penguin_content.domain.codec import Packed, unpack
from penguin_content.domain.composed import from_canonical
from penguin_content.domain.mail import parse


def places(packed: Packed, address: str, *, raw_source: bool) -> list[str]:
    """The parts of a content in which the address (in lower case) stands."""
    data = unpack(packed)
    if raw_source:
        return _of_mail(data, address)
    body = from_canonical(data)
    parts = {
        "text": body.text,
        "html": body.html,
        "headers": "\n".join(f"{name}: {value}" for name, value in body.headers),
    }
    return [place for place, text in parts.items() if in_text(text, address)]


def _of_mail(data: bytes, address: str) -> list[str]:
    found = ["source"] if in_bytes(data, address) else []
    parsed = parse(data)
    parts = {"text": parsed.text, "html": parsed.html, "headers": "\n".join(" ".join(each) for each in parsed.headers)}
    found += [place for place, text in parts.items() if in_text(text, address)]
    found += [f"attachment {n}" for n, part in enumerate(parsed.attachments) if in_bytes(part.data, address)]
    return found
