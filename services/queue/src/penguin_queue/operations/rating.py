"""Rates at work: no more is leased of a lane than its queue's and its tenant's rates let go, and what is leased is put in line
where the rate of its key does not let it go."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from penguin_queue.domain.paces import LONGEST
from penguin_queue.domain.rates import Ask, Rate, Rated
from penguin_queue.domain.turns import Lane, Taken, Turn
from penguin_queue.store.rates import Rates

# What its rate holds back is passed over until half of its bucket is full again, but for no longer than this where a token comes
# sooner (seconds): whatever comes back for each single token would crowd out what needs none.
WORTH_S = 0.05

# How long a job waits, and whether that is its place in line.
Wait = tuple[timedelta, bool]


class Capped(NamedTuple):
    """The turns as far as their rates let them go, the lanes that may not go at all for so long (seconds), the queues of which
    nothing may (seconds), those that had a token for all, and whose tokens were taken, by which of the lanes' buckets. With
    `unasked` there are lanes that go by a rate and were not asked of, for they had no share."""

    turns: list[Turn]
    resting: dict[Lane, float]
    dry: dict[str, float]
    flowing: set[str]
    source: object = None
    buckets: Mapping[Lane, Sequence[tuple[str, Rate]]] = {}
    unasked: bool = False


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
        unasked = any(not turn.share and self._buckets(turn.lane) for turn in turns)
        if not asks:
            return Capped([turn for turn in turns if not self._buckets(turn.lane)], {}, {}, set(), unasked=unasked)
        # As they were asked for: they may be read anew meanwhile.
        rated_of = {turn: self._rated[turn.lane.kind] for turn in asks}
        taken = await self._rates.take(list(asks.values()))
        grants = dict(zip(asks, taken, strict=True))
        capped: list[Turn] = []
        resting: dict[Lane, float] = {}
        dry: dict[str, float] = {}
        for turn in turns:
            if turn not in grants:
                capped += [] if self._buckets(turn.lane) else [turn]
                continue
            grant, rated = grants[turn], rated_of[turn]
            if grant.granted:
                capped.append(replace(turn, share=grant.granted, cap=grant.granted))
            if rated.whole is not None and grant.granted < asks[turn].count and grant.head_s:
                dry[rated.queue] = _rest_s(grant.head_s, rated.whole)
            elif not grant.granted:
                resting[turn.lane] = _rest_s(grant.first_s, rated.tenant or rated.whole)
        flowing = {rated.queue for rated in rated_of.values()}.difference(dry)
        asked_of = {turn.lane: ask.buckets for turn, ask in asks.items()}
        return Capped(capped, resting, dry, flowing, taken[0].source, asked_of, unasked)

    async def give_back(self, capped: Capped, taken: Sequence[Taken]) -> set[str]:
        """Tokens of jobs that were not there, or did not come along; returns the queues that have some by that."""
        counts: Counter[Lane] = Counter()
        for each in taken:
            counts[each.lane] += each.jobs
        unused: Counter[tuple[str, Rate]] = Counter()
        for turn in capped.turns:
            # Those that were asked: by now its queue may go by other rates, or by one for the first time.
            for bucket in capped.buckets.get(turn.lane, ()):
                unused[bucket] += min(turn.cap, turn.share) - counts[turn.lane]
        back = {name for (name, _), count in unused.items() if count > 0}
        for (name, rate), count in unused.items():
            if count > 0:
                await self._rates.give_back(name, rate, count, capped.source)
        return {queue for queue in capped.dry if _of_queue(queue) in back}

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

    @property
    def queues(self) -> dict[str, str]:
        """The kinds of queues that have a rate of their own, or of keys."""
        return {kind: rated.queue for kind, rated in self._rated.items() if rated.whole or rated.key}

    def lined(self, taken: Sequence[Taken], waits: Mapping[int, Wait]) -> dict[str, bool]:
        """The queues of these jobs with a rate of keys: whether all of them, or else none, are to wait."""
        found: dict[str, set[bool]] = defaultdict(set)
        for each in taken:
            rated = self._rated.get(each.lane.kind)
            if rated is not None and rated.key is not None:
                found[rated.queue] |= {job_id in waits for job_id in each.ids}
        return {queue: answers == {True} for queue, answers in found.items() if len(answers) == 1}

    def _buckets(self, lane: Lane) -> tuple[tuple[str, Rate], ...]:
        rated = self._rated.get(lane.kind)
        if rated is None:
            return ()
        of = ((_of_queue(rated.queue), rated.whole), (f"tenant:{rated.queue}:{lane.tenant_id}", rated.tenant))
        return tuple((name, rate) for name, rate in of if rate is not None)


def _of_queue(queue: str) -> str:
    """The name of a queue's own bucket."""
    return f"queue:{queue}"


def _rest_s(first_s: float, rate: Rate | None) -> float:
    """How long what found no token is passed over (seconds)."""
    worth_s = 0.0 if rate is None else min(WORTH_S, rate.burst / 2 / rate.per_s)
    return min(max(first_s, worth_s), LONGEST.total_seconds())
