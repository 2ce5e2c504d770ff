"""Compares the keys that are kept with those that are referred to, one tenant at a time: by sums down to small buckets, and
only there by the keys themselves. It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from penguin_orchestrator.reconciling.reading import KeyReader, MovedError, Place, Places, RefusedError
from penguin_orchestrator.reconciling.sums import NOTHING, Bucket, Sum, added, differing, digest, sum_of, whole

# Generations that are looked at in one go: three months of hours. Some sources read all their keys each time.
WINDOW = 2160
# A bucket of at most so many keys, on all sides, is listed rather than divided. (About what their sums would weigh.)
SMALL = 24
# No finer: KeyService names no longer prefixes.
DEEPEST = 8
# Buckets that differ, in one window: beyond that the rest is left to the next run, so that a great disaster is told in
# bounded time and memory.
DIFFERING = 5000
TRIES = 3


@dataclass
class Difference:
    """What does not agree in one window: keys that nobody refers to, and keys that are referred to and not kept."""

    # The next window begins here.
    end: int
    counted: dict[Place, int] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    dangling: dict[str, Place] = field(default_factory=dict)
    # There was more than is looked at in one run.
    cut: bool = False


Sums = dict[Place, dict[Bucket, Sum]]


class Comparison:
    """Compares one tenant's keys."""

    def __init__(self, reader: KeyReader, places: Places, tenant_id: UUID) -> None:
        self._reader = reader
        self._places = places
        self._tenant_id = tenant_id
        self._all = (places.kept, *places.references)

    async def window(self, first: int, end: int) -> Difference:
        """Compare the first generations from `first` up to but without `end`; raises RefusedError.

        Rows of closed generations do go (a template is deleted): what does not add up is asked for again, a few times.
        """
        for _ in range(TRIES):
            try:
                return await self._window(first, end)
            except MovedError as error:
                reason = str(error)
        raise RefusedError(reason)

    async def _window(self, first: int, end: int) -> Difference:
        reader, places, tenant_id = self._reader, self._places, self._tenant_id
        kept = await reader.generations(places.kept, tenant_id, first, end, limit=WINDOW)
        if len(kept) == WINDOW:
            end = max(kept) + 1
        others = await asyncio.gather(*(reader.generations(p, tenant_id, first, end) for p in places.references))
        told = dict(zip(self._all, (kept, *others), strict=True))
        found = Difference(end, {place: sum(each.keys for each in sums.values()) for place, sums in told.items()})
        sums: Sums = {
            place: {Bucket(generation): each for generation, each in by_generation.items()}
            for place, by_generation in told.items()
        }
        await self._descend(sums, self._differing(sums), found)
        return found

    def _differing(self, sums: Sums) -> list[Bucket]:
        references = added(sums[place] for place in self._places.references)
        return sorted(differing(sums[self._places.kept], references))

    async def _descend(self, sums: Sums, buckets: list[Bucket], found: Difference) -> None:
        """Divide the buckets that differ until they are small, and list those."""
        left = DIFFERING
        while buckets:
            if len(buckets) > left:
                buckets, found.cut = buckets[:left], True
            small = [b for b in buckets if _size(sums, b) <= SMALL or len(b.prefix) == DEEPEST]
            left -= len(small)
            await self._list(sums, small, found)
            large = sorted(set(buckets).difference(small))
            sums = await self._divided(sums, large)
            buckets = self._differing(sums)

    async def _divided(self, sums: Sums, buckets: Sequence[Bucket]) -> Sums:
        async def divide(place: Place) -> dict[Bucket, Sum]:
            held = [bucket for bucket in buckets if bucket in sums[place]]
            parts = await self._reader.divided(place, self._tenant_id, held) if held else {}
            _agree(place, whole(parts, held), sums[place], held)
            return parts

        parts = await asyncio.gather(*(divide(place) for place in self._all))
        return dict(zip(self._all, parts, strict=True))

    async def _list(self, sums: Sums, buckets: Sequence[Bucket], found: Difference) -> None:
        if not buckets:
            return

        async def listed(place: Place) -> set[str]:
            held = [bucket for bucket in buckets if bucket in sums[place]]
            keys = await self._reader.keys(place, self._tenant_id, held) if held else []
            _agree(place, _by_bucket(keys, len(buckets[0].prefix)), sums[place], held)
            return {key for _, key in keys}

        kept, *references = await asyncio.gather(*(listed(place) for place in self._all))
        found.orphans += sorted(kept.difference(*references))
        for place, keys in zip(self._places.references, references, strict=True):
            found.dangling |= dict.fromkeys(sorted(keys - kept), place)


def _size(sums: Sums, bucket: Bucket) -> int:
    return sum(each.get(bucket, NOTHING).keys for each in sums.values())


def _by_bucket(keys: Iterable[tuple[int, str]], depth: int) -> dict[Bucket, Sum]:
    by_bucket: dict[Bucket, list[str]] = {}
    for generation, key in keys:
        by_bucket.setdefault(Bucket(generation, digest(key)[:depth]), []).append(key)
    return {bucket: sum_of(held) for bucket, held in by_bucket.items()}


def _agree(place: Place, told: Mapping[Bucket, Sum], before: Mapping[Bucket, Sum], buckets: Iterable[Bucket]) -> None:
    """Raises MovedError where a source's parts are not what it said of the whole."""
    if any(told.get(bucket, NOTHING) != before[bucket] for bucket in buckets):
        raise MovedError(f"{place.name} does not add up to what it has counted")
