"""A line whose order changes while it stands."""

from __future__ import annotations

import contextlib
import itertools

from hypothesis import given
from hypothesis import strategies as st

from penguin_queue.domain.line import Line


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 20)), max_size=200), st.integers(0, 10))
def test_it_has_everybody_once_in_the_order_of_now(changes: list[tuple[int, int | None]], looked_at: int) -> None:
    keys: dict[int, int] = {}
    line = Line(keys.get)
    for item, key in changes:
        before = keys.pop(item, None)
        if key is not None:
            keys[item] = key
            if before is None or key < before:
                line.put(item)
        with contextlib.closing(line.ordered()) as ordered:
            seen = list(itertools.islice(ordered, looked_at))
        assert seen == sorted((key, item) for item, key in keys.items())[:looked_at]
        first = line.first()
        assert first == min(((key, item) for item, key in keys.items()), default=None)


def test_what_is_out_of_date_is_cleared_away() -> None:
    keys = dict.fromkeys(range(10), 100_000)
    line = Line(keys.get)
    for n in range(10_000):
        keys[n % 10] -= 1
        line.put(n % 10)
    assert len(line._entries) < 200
    with contextlib.closing(line.ordered()) as ordered:
        assert [item for _, item in ordered] == list(range(10))
