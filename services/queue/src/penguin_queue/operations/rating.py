"""Rates at work: no more is leased of a lane than its queue's and its tenant's rates let go, and what is leased is put in line
where the rate of its key does not let it go."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from penguin_queue.domain.lanes import Lane, Taken, Turn
from penguin_queue.domain.rates import Ask, Rate, Rated
from penguin_queue.store.rates import Rates

# A lane that its rate holds back is passed over no longer than this at once: the rate may be raised meanwhile (seconds).
REST_MAX_S = 1.0

# How long a job waits, and whether that is its place in line.
Wait = tuple[timedelta, bool]


class Capped(NamedTuple):
    """The turns as far as their rates let them go, the lanes that may not go at all for so long (seconds), and whose tokens they
    took."""

    turns: list[Turn]
    resting: dict[Lane, float]
    source: object = None


class Rating:
    """The rates as they were last read, and the buckets."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._rated: Mapping[str, Rated] = {}

    def read(self, rated: Mapping[str, Rated]) -> None:
        """These kinds go by these rates from now on."""
        self._rated = rated

    async def cap(self, turns: Sequence[Turn]) -> Capped:
        """Take tokens for these turns."""
        asks = {
            turn: Ask(buckets, turn.share) for turn in turns if turn.share and (buckets := self._buckets(turn.lane))
        }
        if not asks:
            return Capped([turn for turn in turns if not self._buckets(turn.lane)], {})
        taken = await self._rates.take(list(asks.values()))
        grants = dict(zip(asks, taken, strict=True))
        capped: list[Turn] = []
        resting: dict[Lane, float] = {}
        for turn in turns:
            if turn not in grants:
                capped += [] if self._buckets(turn.lane) else [turn]
            elif (grant := grants[turn]).granted:
                capped.append(replace(turn, share=grant.granted, cap=grant.granted))
            else:
                resting[turn.lane] = min(grant.first_s, REST_MAX_S)
        return Capped(capped, resting, taken[0].source)

    async def give_back(self, capped: Capped, taken: Sequence[Taken]) -> None:
        """Tokens of jobs that were not there."""
        counts: Counter[Lane] = Counter()
        for each in taken:
            counts[each.lane] += each.jobs
        unused: Counter[tuple[str, Rate]] = Counter()
        for turn in capped.turns:
            for bucket in self._buckets(turn.lane):
                unused[bucket] += min(turn.cap, turn.share) - counts[turn.lane]
        for (name, rate), count in unused.items():
            if count > 0:
                await self._rates.give_back(name, rate, count, capped.source)

    async def waits(self, taken: Sequence[Taken]) -> dict[int, Wait]:
        """Which of these jobs, by their ids, the rates of their keys do not let go yet."""
        lines: dict[Ask, list[int]] = defaultdict(list)
        for each in taken:
            rated = self._rated.get(each.lane.kind)
            if rated is None or rated.key is None:
                continue
            for job_id, key, lined in each.keyed:
                name = f"key:{rated.queue}:{each.lane.tenant_id}:{key}"
                lines[Ask(((name, rated.key),), 0, each.lane.priority, lined, lines=True)].append(job_id)
        if not lines:
            return {}
        grants = await self._rates.take([replace(ask, count=len(ids)) for ask, ids in lines.items()])
        waits: dict[int, Wait] = {}
        for ids, grant in zip(lines.values(), grants, strict=True):
            for n, job_id in enumerate(ids[grant.granted :]):
                placed = n < grant.placed
                wait = grant.first_s + n * grant.step_s if placed else grant.later_s * random.uniform(0.75, 1.25)
                waits[job_id] = timedelta(seconds=wait), placed
        return waits

    def _buckets(self, lane: Lane) -> tuple[tuple[str, Rate], ...]:
        rated = self._rated.get(lane.kind)
        if rated is None:
            return ()
        of = ((f"queue:{rated.queue}", rated.whole), (f"tenant:{rated.queue}:{lane.tenant_id}", rated.tenant))
        return tuple((name, rate) for name, rate in of if rate is not None)
