"""Percentiles, windows and slopes of latencies. Pure; times in seconds, latencies in milliseconds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

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

    @classmethod
    def median(cls, spreads: Sequence[Spread]) -> Spread:
        """Of several rounds: the median of each figure, and the worst of all."""
        p50, p99 = (statistics.median(getattr(each, name) for each in spreads) for name in ("p50", "p99"))
        return cls(sum(each.count for each in spreads), p50, p99, max(each.worst for each in spreads))


def windows(samples: Sequence[Sample], width: float) -> list[tuple[float, Spread]]:
    """Samples by the time they were meant for: the middle of each window, and its spread. The last one, where it is not
    full, is left out."""
    found: dict[int, list[float]] = defaultdict(list)
    for at, latency in samples:
        found[int(at // width)].append(latency)
    last = max((at for at, _ in samples), default=0.0)
    full = [number for number in sorted(found) if (number + 1) * width <= last + width / 20]
    return [((number + 0.5) * width, Spread.of(found[number])) for number in full or sorted(found)]


@dataclass(frozen=True)
class Trend:
    """How points move: Theil and Sen's slope, which single outliers do not move, and where it lies in 95 of 100 cases by
    Kendall's distribution (P. K. Sen, 1968)."""

    slope: float
    least: float
    most: float

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Trend:
        """0, and anything, for fewer than two points."""
        pairs = itertools.combinations(points, 2)
        slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs if x1 != x2)
        if not slopes:
            return cls(0.0, -math.inf, math.inf)
        n, count = len(points), len(slopes)
        beside = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
        low, high = math.floor((count - beside) / 2), math.ceil((count + beside) / 2)
        least = slopes[low] if low >= 0 else -math.inf
        return cls(statistics.median(slopes), least, slopes[high] if high < count else math.inf)

    def times(self, factor: float) -> Trend:
        """In other units."""
        return Trend(self.slope * factor, self.least * factor, self.most * factor)

    @property
    def upward(self) -> bool:
        """Whether it cannot well be chance that it goes up."""
        return self.least > 0


@dataclass
class Verdicts:
    """Says of each thing that is wanted whether it holds, and keeps which do not."""

    short: list[str] = field(default_factory=list)

    def word(self, what: str, holds: bool) -> str:
        """In a word."""
        if not holds:
            self.short.append(what)
        return "holds" if holds else "FALLS SHORT"


def ratio(value: float, base: float) -> float:
    """How many times `base`; not a number where there is none."""
    return value / base if base else math.nan
