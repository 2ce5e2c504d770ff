"""Percentiles, windows and slopes of latencies. Pure; times in seconds, latencies in milliseconds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

# When a job was to be sent, and how much later its handler began.
Sample = tuple[float, float]


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that so great a share is at or below; not a number where there is none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Spread:
    """What is told of many latencies."""

    count: int
    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, latencies: Sequence[float]) -> Spread:
        return cls(
            len(latencies), percentile(latencies, 0.5), percentile(latencies, 0.99), max(latencies, default=math.nan)
        )


def windows(samples: Sequence[Sample], width: float) -> list[tuple[float, Spread]]:
    """Samples by the time they were meant for: the middle of each window, and its spread. The last one, where it is not
    full, is left out."""
    found: dict[int, list[float]] = defaultdict(list)
    for at, latency in samples:
        found[int(at // width)].append(latency)
    last = max((at for at, _ in samples), default=0.0)
    full = [number for number in sorted(found) if (number + 1) * width <= last + width / 20]
    return [((number + 0.5) * width, Spread.of(found[number])) for number in full or sorted(found)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's slope: the median over all pairs, which single outliers do not move. 0 for fewer than two points."""
    pairs = itertools.combinations(points, 2)
    return statistics.median([(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x1 != x2] or [0.0])


def ratio(value: float, base: float) -> float:
    """How many times `base`; not a number where there is none."""
    return value / base if base else math.nan
