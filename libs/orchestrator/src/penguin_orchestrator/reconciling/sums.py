"""Sums of keys, as KeyService tells them: how two sides are compared without moving their keys. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

K = TypeVar("K")


class Sum(NamedTuple):
    """How many keys, and the XOR of their hashes: of parts that share no key, sums add up."""

    keys: int
    hash: int

    def plus(self, other: Sum) -> Sum:
        """The sum of both parts."""
        return Sum(self.keys + other.keys, self.hash ^ other.hash)


NOTHING = Sum(0, 0)


class Bucket(NamedTuple):
    """The keys of one generation whose digests begin with `prefix` (lower-case hex)."""

    generation: int
    prefix: str = ""

    @property
    def around(self) -> Bucket:
        """The bucket that this one is a part of."""
        return Bucket(self.generation, self.prefix[:-1])


def digest(key: str) -> str:
    """A key's digest: it guards nothing, and every database has it."""
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def sum_of(keys: Iterable[str]) -> Sum:
    """What a source must sum these keys up to."""
    total = NOTHING
    for key in keys:
        last = int(digest(key)[16:], 16)
        total = total.plus(Sum(1, last - 2**64 if last >= 2**63 else last))
    return total


def added(sides: Iterable[Mapping[K, Sum]]) -> dict[K, Sum]:
    """Several sources as one."""
    total: dict[K, Sum] = {}
    for side in sides:
        for place, each in side.items():
            total[place] = total.get(place, NOTHING).plus(each)
    return total


def differing(one: Mapping[K, Sum], other: Mapping[K, Sum]) -> set[K]:
    """Where two sides do not hold the same."""
    return {place for place in one.keys() | other.keys() if one.get(place, NOTHING) != other.get(place, NOTHING)}


def whole(parts: Mapping[Bucket, Sum], parents: Iterable[Bucket]) -> dict[Bucket, Sum]:
    """What the buckets around `parts` amount to, each of `parents` named."""
    total = dict.fromkeys(parents, NOTHING)
    for bucket, each in parts.items():
        total[bucket.around] = total.get(bucket.around, NOTHING).plus(each)
    return total
