"""Compares the keys that are kept with those that are referred to, one tenant at a time: by sums down to small buckets, and
only there by the keys themselves. It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from uuid import UUID

from penguin_orchestrator.reconciling.reading import KeyReader, MovedError, Place, Places, RefusedError, UncomparedError
from penguin_orchestrator.reconciling.sums import NOTHING, Bucket, Sum, added, differing, digest, sum_of, whole

# Generations that are looked at in one go: three months of hours. Some sources read all their keys each time.
WINDOW = 2160
# A bucket of at most so many keys, on all sides, is listed rather than divided. (About what their sums would weigh.)
SMALL = 24
# No finer: KeyService names no longer prefixes.
DEEPEST = 8
# Buckets that differ and are divided or listed together.
TOGETHER = 250
# Keys that do not agree, told at once; what comes after them is told next, so that a disaster is told to its end in bounded memory.
TOLD = 5000
TRIES = 3


@dataclass
class Difference:
    """What does not agree, up to a place: keys that nobody refers to, and keys that are referred to and not kept."""

    # Generations before this one have been compared. The next may have been in part: that is begun anew by who takes a run on.
    end: int
    counted: dict[Place, int] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    dangling: dict[str, Place] = field(default_factory=dict)

    @property
    def keys(self) -> int:
        """How many do not agree."""
        return len(self.orphans) + len(self.dangling)


Sums = dict[Place, dict[Bucket, Sum]]


class Comparison:
    """Compares one tenant's keys."""

    def __init__(self, reader: KeyReader, places: Places, tenant_id: UUID) -> None:
        self._reader = reader
        self._places = places
        self._tenant_id = tenant_id
        self._all = (places.kept, *places.references)
        # Buckets before this one are done.
        self._since = Bucket(0)
        self._found = Difference(0)
        # What each source said of the whole, at the last try.
        self._whole: Mapping[Place, Mapping[int, Sum]] = {}

    async def differences(self, first: int, end: int) -> AsyncGenerator[Difference, None]:
        """Compare the generations from `first` up to but without `end`, part by part, in their order; raises RefusedError.

        Rows of closed generations do go (a template is deleted): what does not add up is asked for again, a few times. Where the
        whole is another each time the tenant does not stand still (UncomparedError); where it is the same its source is short.
        """
        self._since = Bucket(first)
        while self._since.generation < end:
            since = self._since
            wholes: list[Mapping[int, Sum] | None] = []
            for _ in range(TRIES):
                try:
                    async with aclosing(self._window(end)) as parts:
                        async for part in parts:
                            yield part
                    break
                except MovedError as error:
                    reason = str(error)
                    wholes.append(self._whole.get(error.place) if error.place is not None else None)
                    if self._since > since:
                        # What was told stands: from there on, with as many tries.
                        break
            else:
                raise (RefusedError if all(whole == wholes[0] for whole in wholes) else UncomparedError)(reason)

    async def _window(self, end: int) -> AsyncGenerator[Difference, None]:
        """The first generations of what is left, in one part or, where much does not agree, in several."""
        reader, places, tenant_id, first = self._reader, self._places, self._tenant_id, self._since.generation
        kept = await reader.generations(places.kept, tenant_id, first, end, limit=WINDOW)
        if len(kept) == WINDOW:
            end = max(kept) + 1
        others = await asyncio.gather(*(reader.generations(p, tenant_id, first, end) for p in places.references))
        told = self._whole = dict(zip(self._all, (kept, *others), strict=True))
        sums: Sums = {
            place: {Bucket(generation): each for generation, each in by_generation.items()}
            for place, by_generation in told.items()
        }
        self._found = Difference(first)
        async with aclosing(self._descend(sums, self._differing(sums))) as stops:
            async for stop in stops:
                yield self._told(told, stop)
        yield self._told(told, Bucket(end))

    def _told(self, told: Mapping[Place, Mapping[int, Sum]], stop: Bucket) -> Difference:
        """What was found up to a place, with the keys of the generations that are done."""
        part, since = self._found, self._since.generation
        part.end = stop.generation
        part.counted = {
            place: sum(each.keys for generation, each in sums.items() if since <= generation < stop.generation)
            for place, sums in told.items()
        }
        self._found, self._since = Difference(stop.generation), stop
        return part

    def _differing(self, sums: Sums) -> list[Bucket]:
        references = added(sums[place] for place in self._places.references)
        return sorted(b for b in differing(sums[self._places.kept], references) if not self._done(b))

    def _done(self, bucket: Bucket) -> bool:
        """Whether all of it is before the place that was told of."""
        since = self._since
        return bucket < Bucket(since.generation, since.prefix[: len(bucket.prefix)])

    async def _descend(self, sums: Sums, buckets: list[Bucket]) -> AsyncGenerator[Bucket, None]:
        """Divide the buckets that differ until they are small, and list those; in their order, so that where much was found
        all before a place is: that place is yielded."""
        for n in range(0, len(buckets), TOGETHER):
            portion = buckets[n : n + TOGETHER]
            small = [b for b in portion if _size(sums, b) <= SMALL or len(b.prefix) == DEEPEST]
            large = sorted(set(portion).difference(small))
            if large:
                parts = await self._divided(sums, large)
                async with aclosing(self._descend(parts, self._differing(parts))) as stops:
                    async for stop in stops:
                        await self._list(sums, [b for b in small if b < stop])
                        small = [b for b in small if b > stop]
                        yield stop
            await self._list(sums, small)
            if self._found.keys >= TOLD and n + TOGETHER < len(buckets):
                yield buckets[n + TOGETHER]

    async def _divided(self, sums: Sums, buckets: Sequence[Bucket]) -> Sums:
        async def divide(place: Place) -> dict[Bucket, Sum]:
            held = [bucket for bucket in buckets if bucket in sums[place]]
            parts = await self._reader.divided(place, self._tenant_id, held) if held else {}
            _agree(place, whole(parts, held), sums[place], held)
            return parts

        parts = await asyncio.gather(*(divide(place) for place in self._all))
        return dict(zip(self._all, parts, strict=True))

    async def _list(self, sums: Sums, buckets: Sequence[Bucket]) -> None:
        if not buckets:
            return
        since = self._since

        async def listed(place: Place) -> set[str]:
            held = [bucket for bucket in buckets if bucket in sums[place]]
            keys = await self._reader.keys(place, self._tenant_id, held) if held else []
            _agree(place, _by_bucket(keys, len(buckets[0].prefix)), sums[place], held)
            return {key for generation, key in keys if Bucket(generation, digest(key)) >= since}

        kept, *references = await asyncio.gather(*(listed(place) for place in self._all))
        self._found.orphans += sorted(kept.difference(*references))
        for place, keys in zip(self._places.references, references, strict=True):
            self._found.dangling |= dict.fromkeys(sorted(keys - kept), place)


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
        raise MovedError(f"{place.name} does not add up to what it has counted", place)
