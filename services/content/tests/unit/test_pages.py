"""Where a page of contents begins, by a key that a client may have made up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from penguin_content.servicers.contents_wire import place

AT = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_place_is_a_time_and_a_key() -> None:
    assert place([AT.isoformat(), "k"]) == (AT, "k")


@pytest.mark.parametrize(
    "key", [[], ["x", "k"], [AT.isoformat()], [AT.isoformat(), 3], [5, "k"], ["2026-03-01T00:00:00", "k"],
            [AT.isoformat(), "a\0b"], [AT.isoformat(), "k", 1]],
)  # fmt: skip
def test_what_is_no_place_is_refused(key: list[Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        place(key)
