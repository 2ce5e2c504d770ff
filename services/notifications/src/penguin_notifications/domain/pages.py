"""How many rows one page may hold: as many as were asked for, and no more than a message carries."""

from __future__ import annotations

from collections.abc import Iterable

# Well below the message limit (4 MiB), however long the texts are.
PAGE_BYTES = 3 * 1024 * 1024
# Ids, times and framing of one row, at most.
OVERHEAD_BYTES = 1500


def fitting(weights: Iterable[int], size: int) -> int:
    """How many rows of these weights (bytes of text), from the first, one page of `size` holds; at least one."""
    left, count = PAGE_BYTES, 0
    for weight in weights:
        left -= weight + OVERHEAD_BYTES
        if count == size or (left < 0 and count > 0):
            break
        count += 1
    return count
