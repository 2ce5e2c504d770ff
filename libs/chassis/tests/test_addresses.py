"""An address is found where it stands by itself, however that is written, and never within another person's."""

from __future__ import annotations

import re

import pytest

from penguin_chassis.addresses import in_bytes, in_text, pattern
from penguin_chassis.pool import Database

ANN = "ann-marie+x@example.com"
HERS = [
    ANN, f"<{ANN}>", f"'{ANN}'", f"Write to {ANN}.", f"mailto:{ANN.upper()}?subject=x", f'{{"to": "{ANN}"}}', f"a\\n{ANN}\\n",
    f"\\u003c{ANN}\\u003e", f"\\012{ANN}", f"jo{ANN}, {ANN}", f"{ANN}.au {ANN}",
]  # fmt: skip
OTHERS = [
    f"jo{ANN}", f"o'{ANN}", f"x.{ANN}", f"x+{ANN}", f"x-{ANN}", f"x_{ANN}", f"{ANN}.au", f"{ANN}-old.org", f"{ANN}m",
    "ann.marie+x@example.com", "ann-marie+x@exampleXcom", "",
]  # fmt: skip


@pytest.mark.parametrize(("text", "named"), [(t, True) for t in HERS] + [(t, False) for t in OTHERS])
def test_an_address_stands_by_itself(text: str, named: bool) -> None:
    assert in_text(text, ANN) is named
    assert bool(re.search(pattern(ANN), text.lower())) is named
    for code in ("utf-8", "utf-16-le", "utf-16-be"):
        assert in_bytes(text.encode(code), ANN) is named
        # Wherever in other bytes it begins.
        assert in_bytes(b"\n" + text.encode(code), ANN) or not named


async def test_the_database_finds_what_we_find(db: Database) -> None:
    async with db.maintenance() as connection:
        found = [await connection.fetchval("SELECT lower($1::text) ~ $2", text, pattern(ANN)) for text in HERS + OTHERS]
    assert found == [True] * len(HERS) + [False] * len(OTHERS)


@pytest.mark.parametrize("code", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize(
    ("text", "named"), [(f"to {ANN}, you", True), (f"to jo{ANN}, you", False), (f"to {ANN}.au, you", False)]
)
def test_what_is_cut_anywhere_is_judged_as_a_whole(code: str, text: str, named: bool) -> None:
    data = text.encode(code)
    for cut in range(0, len(data) + 1, 2):
        tail = data[:cut]
        judged = [in_bytes(data[:cut], ANN, last=False), in_bytes(tail + data[cut:], ANN)]
        assert any(judged) is named
        # Only what both sides of are seen is judged at all.
        assert not in_bytes(data[len("to jo".encode(code)) :], ANN, first=False) or named
