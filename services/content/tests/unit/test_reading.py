"""What goes into one reply, and what waits."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from penguin_chassis.faults import ResourceExhausted
from penguin_content.domain.contents import BODY, FULL, METADATA, Attachment, Metadata
from penguin_content.domain.reading import REPLY_LIMIT, Wanted, fitting

AT = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 1024 * 1024


def known(key: str, size: int, attached: int = 0, *, raw: bool = False) -> Metadata:
    attachments = (Attachment(0, "a", "b/c", "inline", "", attached, "0" * 64),) if attached else ()
    return Metadata(key, "claimed", "0" * 64, size, size, "none", AT, AT, None, raw, 0, attachments)


def keys(found: list[Metadata]) -> list[str]:
    return [metadata.storage_key for metadata in found]


def test_contents_go_in_while_there_is_room() -> None:
    found = [known("a", 2 * MIB), known("b", 2 * MIB), known("c", MIB // 2)]
    assert keys(fitting(found, Wanted(FULL))) == ["a", "c"]
    assert keys(fitting(found, Wanted(METADATA))) == ["a", "b", "c"]
    assert fitting([], Wanted(FULL)) == []


def test_only_what_is_asked_for_is_counted() -> None:
    found = [known("a", 100, 3 * MIB), known("b", 100, 3 * MIB)]
    assert keys(fitting(found, Wanted(BODY))) == ["a", "b"]
    assert keys(fitting(found, Wanted(FULL))) == ["a"]
    mails = [known("a", 2 * MIB, raw=True), known("b", MIB, raw=True)]
    assert keys(fitting(mails, Wanted(METADATA, raw=True))) == ["a"]


def test_the_first_may_take_the_whole_reply_but_no_more() -> None:
    assert keys(fitting([known("a", REPLY_LIMIT - 2_000), known("b", 1)], Wanted(FULL))) == ["a"]
    with pytest.raises(ResourceExhausted) as refused:
        fitting([known("a", 100, 64 * MIB)], Wanted(FULL))
    assert refused.value.reason == "TOO_LARGE"
    assert refused.value.metadata == {"storage_key": "a"}
