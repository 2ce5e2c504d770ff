"""Rates: token buckets of queues, of tenants in them, and of keys (a mailbox, a domain). Pure: times are passed in, in seconds.

A bucket holds `burst` tokens at most and gains `per_s` of them a second; a job takes one of each of its buckets. A bucket that is
not known is as full as it can have become since the buckets were begun, so that losing them all lets nobody be quicker.

Jobs that find no token by their key are given places in a line, each when its token will be there. Who comes new goes behind
those who stand in line at its priority or above; who comes from the line needs no more than a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Places in line are given this far ahead (seconds). Who finds it longer comes again when half of it may be over, or after LATER_S:
# a rate that is raised has not been promised away for longer than that.
AHEAD_S = 60.0
LATER_S = 600.0
# Buckets that are kept before the first look for full ones.
ROOM = 10_000
# Of a bucket that is not known at least this much is there: a rate of a few a day is not to begin with a wait of hours.
LEAST = 1.0


@dataclass(frozen=True)
class Rate:
    """So many tokens a second, and how many a bucket holds."""

    per_s: float
    burst: int


@dataclass(frozen=True)
class Rated:
    """A queue's rates: its own, each tenant's in it, and that of each key of a tenant; none where it has none."""

    queue: str
    whole: Rate | None
    tenant: Rate | None
    key: Rate | None


@dataclass(frozen=True)
class Ask:
    """Tokens for `count` jobs of one priority, one of each bucket. `lined`: they come from the line. `lines`: those that get none
    are to be given places in it."""

    buckets: Sequence[tuple[str, Rate]]
    count: int
    priority: int = 2
    lined: bool = False
    lines: bool = False


@dataclass(frozen=True)
class Grant:
    """How many may go. Of the others so many are `placed` in line, the first after `first_s` and each `step_s` after the one
    before; the rest ask again after `later_s`. The first of its buckets has a token after `head_s`. `source` says whose buckets
    these were: no others take tokens back."""

    granted: int
    first_s: float = 0.0
    step_s: float = 0.0
    placed: int = 0
    later_s: float = 0.0
    head_s: float = 0.0
    source: object = None


@dataclass
class Bucket:
    """What is in a bucket at a moment, and until when its line is at each priority."""

    tokens: float
    at: float
    # When it is full again if nobody takes any.
    full_at: float
    lines: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


class Buckets:
    """Buckets in memory: the reference for those in Redis, and their stand-in."""

    def __init__(self, began: float, least: float = LEAST) -> None:
        self._began = began
        self._least = least
        self._room = ROOM
        self._buckets: dict[str, Bucket] = {}

    def take(self, ask: Ask, now: float) -> Grant:
        """Take tokens for as many as there are."""
        found = [(self._filled(name, rate, now), rate) for name, rate in ask.buckets]
        line = max(max(bucket.lines[: ask.priority]) for bucket, _ in found)
        barred = not ask.lined and line > now
        granted = 0 if barred else max(0, min(ask.count, *(int(bucket.tokens) for bucket, _ in found)))
        for bucket, rate in found:
            bucket.tokens -= granted
            bucket.full_at += granted / rate.per_s
        denied = ask.count - granted
        if not denied:
            return Grant(granted)
        waits = [max(0.0, 1 - bucket.tokens) / rate.per_s for bucket, rate in found]
        head, first = waits[0], now + max(waits)
        step = max(1 / rate.per_s for _, rate in found)
        if not ask.lined:
            first = max(first, line)
        if not ask.lines:
            return Grant(granted, first - now, step, head_s=head)
        if ask.lined:
            return Grant(granted, first - now, step, denied, head_s=head)
        placed = max(0, min(denied, 1 + int((now + AHEAD_S - first) / step))) if first <= now + AHEAD_S else 0
        for bucket, _ in found if placed else ():
            for priority in range(ask.priority - 1, 3):
                bucket.lines[priority] = max(bucket.lines[priority], first + placed * step)
        later = max(0.0, first + placed * step - now) / 2
        later = min(max(later, step), LATER_S) if placed < denied else 0.0
        return Grant(granted, first - now, step, placed, later, head)

    def give_back(self, name: str, rate: Rate, count: int, now: float) -> None:
        """Tokens that nobody needed after all."""
        bucket = self._filled(name, rate, now)
        bucket.tokens = min(float(rate.burst), bucket.tokens + count)

    def _filled(self, name: str, rate: Rate, now: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            self._make_room(now)
            gained = max(self._least, (now - self._began) * rate.per_s)
            bucket = self._buckets[name] = Bucket(min(float(rate.burst), gained), now, now)
        passed = max(0.0, now - bucket.at)
        bucket.tokens, bucket.at = min(float(rate.burst), bucket.tokens + passed * rate.per_s), now
        bucket.full_at = now + (rate.burst - bucket.tokens) / rate.per_s
        return bucket

    def _make_room(self, now: float) -> None:
        """Forget buckets that are full, and nobody's line: what they are is made up from the time."""
        if len(self._buckets) >= self._room:
            self._buckets = {n: b for n, b in self._buckets.items() if max(b.full_at, *b.lines) > now}
            self._room = 2 * len(self._buckets) + ROOM
