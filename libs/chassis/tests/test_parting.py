"""Parts that fit."""

from __future__ import annotations

import pytest

from penguin_chassis.parting import parted


@pytest.mark.parametrize(
    ("items", "parts"),
    [
        ([], []),
        ([3, 3, 4], [[3, 3, 4]]),
        ([3, 3, 5], [[3, 3], [5]]),
        ([11, 1], [[11], [1]]),
        ([1, 11, 1], [[1], [11], [1]]),
        ([1] * 5, [[1] * 4, [1]]),
        ([0] * 9, [[0] * 4, [0] * 4, [0]]),
    ],
)
def test_parts_hold_what_fits_in_order(items: list[int], parts: list[list[int]]) -> None:
    assert list(parted(items, lambda item: item, 10, 4)) == parts


def test_without_a_number_only_the_size_counts() -> None:
    assert list(parted([1] * 12, lambda item: item, 10)) == [[1] * 10, [1] * 2]
