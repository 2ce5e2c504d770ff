"""Many items in parts that each fit: into a message, or into a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

X = TypeVar("X")


def parted(
    items: Iterable[X], size: Callable[[X], int], most_bytes: int, most_items: int | None = None
) -> Iterator[list[X]]:
    """The items in order, in parts of at most `most_bytes` (as `size` has it) and `most_items`; one that is larger by itself is a
    part of its own."""
    part: list[X] = []
    taken = 0
    for item in items:
        grows = size(item)
        if part and (taken + grows > most_bytes or len(part) == most_items):
            yield part
            part, taken = [], 0
        part.append(item)
        taken += grows
    if part:
        yield part
