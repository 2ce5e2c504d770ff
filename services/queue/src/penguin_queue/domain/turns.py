"""What a lease is asked for, and what it brings: lanes, the places of jobs in them, and turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

# More than any lease.
UNCAPPED = 1_000_000


class Lane(NamedTuple):
    """Whose ready jobs: `priority` is 1 (high) to 3 (low)."""

    priority: int
    kind: str
    tenant_id: UUID


class Place(NamedTuple):
    """Where in its lane a job stands."""

    rank: int
    run_at: datetime
    id: int


@dataclass(frozen=True)
class Head:
    """The first ready job of a lane."""

    lane: Lane
    place: Place


@dataclass(frozen=True)
class Turn:
    """A lane to be leased from, from `floor` on. A later `band` has its turn when the earlier ones are empty; within one each
    gives `share` jobs at first, and never more than `cap`. Of a `limited` one only so many may be in flight."""

    lane: Lane
    band: int
    share: int
    floor: Place
    cap: int = UNCAPPED
    limited: bool = False


class Keyed(NamedTuple):
    """A job that was leased and goes by the rate of a key, and whether it has a place in that line."""

    job_id: int
    rate_key: str
    lined: bool


class Taken(NamedTuple):
    """What was leased of a lane: how many jobs, the last of their places, those that go by the rate of a key, and their ids."""

    lane: Lane
    jobs: int
    last: Place
    keyed: Sequence[Keyed] = ()
    ids: Sequence[int] = ()
