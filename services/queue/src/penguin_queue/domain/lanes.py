"""Which ready jobs go first: lanes, whose turn it is, and how much of a lease each gets. Pure: times are passed in.

A lane is the ready jobs of one priority, kind and tenant. What a process knows of lanes is a hint: a lane that is not known is
found by the next survey, and one that is known may turn out to be empty. The database alone says which jobs are ready.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

# A priority of which a lane's next job has been due this long counts as the next higher one, and so on: whatever is offered above
# them, low lanes share evenly with the high ones after twice this. All lanes of the priority do, so that who has let a backlog
# grow old is not before those who have not.
AGEING = timedelta(seconds=30)
LOWEST = 3
# Every so many leases a lane that has waited for so long has the first job, whatever load its tenant has: so nobody is passed over
# for ever.
ELDEST_EVERY = 8
LONG = 2 * AGEING
# Lanes of one tenant that are kept in mind: kinds name handlers, and who has this many more is not to crowd others out.
TENANT_LANES_MAX = 500
# Lanes that one lease looks into; the others come with the next.
REACH = 64
# Lanes that are kept in mind (a few hundred bytes each). Beyond them new ones are found when others are empty.
LANES_MAX = 50_000
# What a tenant has that is given no other weight.
ORDINARY_WEIGHT = 100
# More than any lease.
UNCAPPED = 1_000_000
# After so long half of what a tenant's jobs have taken is forgotten (seconds).
HALF_LIFE_S = 5.0
# Below this many jobs in flight a tenant is taken to have none.
NONE_IN_FLIGHT = 0.01


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
    gives `share` jobs at first, and never more than `cap`."""

    lane: Lane
    band: int
    share: int
    floor: Place
    cap: int = UNCAPPED


class Keyed(NamedTuple):
    """A job that was leased and goes by the rate of a key, and whether it has a place in that line."""

    job_id: int
    rate_key: str
    lined: bool


class Taken(NamedTuple):
    """What was leased of a lane: how many jobs, the last of their places, and those that go by the rate of a key."""

    lane: Lane
    jobs: int
    last: Place
    keyed: Sequence[Keyed] = ()


@dataclass
class _Known:
    # No job before it is ready, as far as is known.
    floor: Place
    # When it was told of and served last, in the order of such events.
    told: int
    served: int = 0
    blocked: bool = False
    # Its rate lets nothing go before.
    rests_until: datetime | None = None


class Loads:
    """How much of the workers each tenant has: jobs in flight, now and lately, by its weight."""

    def __init__(self) -> None:
        self._lately: dict[UUID, float] = {}
        self._in_flight: Mapping[UUID, int] = {}
        self._granted: Counter[UUID] = Counter()
        self._weights: Mapping[UUID, int] = {}
        self._at: datetime | None = None

    def sampled(self, in_flight: Mapping[UUID, int], weights: Mapping[UUID, int], at: datetime) -> None:
        """All tenants' jobs in flight as counted at `at`, and the weights of those that have one of their own."""
        passed = 0.0 if self._at is None else max(0.0, (at - self._at).total_seconds())
        kept = 0.5 ** (passed / HALF_LIFE_S)
        tenants = self._lately.keys() | in_flight.keys()
        lately = {t: kept * self._lately.get(t, 0.0) + (1 - kept) * in_flight.get(t, 0) for t in tenants}
        self._lately = {t: load for t, load in lately.items() if load >= NONE_IN_FLIGHT}
        self._in_flight, self._weights, self._at = in_flight, weights, at
        self._granted.clear()

    def granted(self, tenant_id: UUID, count: int) -> None:
        """So many were leased since the last sample."""
        self._granted[tenant_id] += count

    def weight(self, tenant_id: UUID) -> float:
        """A tenant's weight, 1 where it is an ordinary one."""
        return self._weights.get(tenant_id, ORDINARY_WEIGHT) / ORDINARY_WEIGHT

    def of(self, tenant_id: UUID) -> float:
        """Jobs in flight by weight: the more it has, the later is its turn."""
        held = max(self._lately.get(tenant_id, 0.0), self._in_flight.get(tenant_id, 0)) + self._granted[tenant_id]
        return held / self.weight(tenant_id)


class Lanes:
    """The lanes that are believed to have ready jobs."""

    def __init__(self) -> None:
        self.loads = Loads()
        # Kinds of which only so many jobs may be in flight: a lane of theirs may have jobs though none is to be had.
        self.limited: frozenset[str] = frozenset()
        self._known: dict[Lane, _Known] = {}
        self._by_kind: dict[str, dict[Lane, _Known]] = defaultdict(dict)
        self._of_tenant: Counter[UUID] = Counter()
        self._leases = 0
        self._blocked: set[Lane] = set()
        self._events = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def mark(self) -> int:
        """Where in the order of events we are: what is found out from now on may be older than what is told from now on."""
        return self._events

    def told(self, lane: Lane, place: Place) -> None:
        """A job was made ready at `place`."""
        self._events += 1
        known = self._known.get(lane)
        if known is None:
            self._learn(lane, _Known(place, self._events))
            return
        known.floor = min(known.floor, place)
        known.told = self._events
        self._unblock(lane, known)

    def surveyed(self, mark: int, heads: Sequence[Head], *, whole: bool) -> list[Lane]:
        """What a survey that began at `mark` found, of all lanes where it is a `whole` one; returns the lanes that were not
        known to have anything."""
        new: list[Lane] = []
        if whole:
            found = {head.lane for head in heads}
            for lane in [lane for lane, known in self._known.items() if lane not in found and known.told <= mark]:
                self._forget(lane)
        for head in heads:
            known = self._known.get(head.lane)
            if known is not None:
                known.floor = head.place if known.told <= mark else min(known.floor, head.place)
                self._unblock(head.lane, known)
            elif self._learn(head.lane, _Known(head.place, mark)):
                new.append(head.lane)
        return new

    def choose(self, kinds: Collection[str], wanted: int, at: datetime) -> list[Turn]:
        """Whose turn it is where a worker of these kinds (none: all) can take so many: least loaded tenants first."""
        wanted_for = [
            (lane, known)
            for lane, known in self._of(kinds)
            if not known.blocked and (known.rests_until is None or known.rests_until <= at)
        ]
        bands_of = _bands(wanted_for, at)
        waiting = [
            (bands_of[lane.priority], self.loads.of(lane.tenant_id), known.served, lane) for lane, known in wanted_for
        ]
        chosen = heapq.nsmallest(REACH, waiting) if len(waiting) > REACH else sorted(waiting)
        bands: dict[int, list[Lane]] = defaultdict(list)
        turns: list[Turn] = []
        self._leases += 1
        if wanted_for and self._leases % ELDEST_EVERY == 0:
            eldest, known = min(wanted_for, key=lambda each: (each[1].floor.run_at, each[0]))
            if at - known.floor.run_at >= LONG:
                chosen = [each for each in chosen if each[3] != eldest]
                turns.append(Turn(eldest, 1, 1, known.floor))
        for band, _, _, lane in chosen:
            bands[band].append(lane)
        for band, lanes in bands.items():
            shares = self._shares(lanes, wanted - sum(turn.share for turn in turns if turn.band == band))
            turns += [Turn(lane, band, shares[lane], self._known[lane].floor) for lane in lanes]
        return turns

    def leased(self, mark: int, turns: Sequence[Turn], wanted: int, rows: Iterable[Taken]) -> None:
        """What a lease that began at `mark` took of its turns."""
        counts: Counter[Lane] = Counter()
        last: dict[Lane, Place] = {}
        for lane, jobs, place, _ in rows:
            counts[lane] += jobs
            last[lane] = max(last.get(lane, place), place)
        total = counts.total()
        for tenant_id, count in _by_tenant(counts).items():
            self.loads.granted(tenant_id, count)
        for turn in turns:
            known = self._known.get(turn.lane)
            if known is None:
                continue
            if turn.lane in last:
                self._events += 1
                known.served = self._events
            if known.told > mark:
                continue
            if turn.lane in last:
                known.floor = max(known.floor, last[turn.lane])
            # A lease that is full has looked into no more than the first band for certain.
            looked = total < wanted or turn.band == turns[0].band
            if looked and counts[turn.lane] < min(turn.cap, wanted if total < wanted else turn.share):
                self._came_short(turn.lane, known)

    def rest(self, lane: Lane, until: datetime) -> None:
        """Pass a lane over until then: its rate lets nothing go."""
        if (known := self._known.get(lane)) is not None:
            known.rests_until = until

    def freed(self) -> set[str]:
        """Jobs have ended: limited lanes may give again. Returns their kinds."""
        for lane in self._blocked:
            self._known[lane].blocked = False
        kinds = {lane.kind for lane in self._blocked}
        self._blocked.clear()
        return kinds

    def open_kind(self, kinds: Collection[str]) -> str | None:
        """A kind among these (none: any) of which there may be more."""
        return next((lane.kind for lane, known in self._of(kinds) if not known.blocked), None)

    def _shares(self, lanes: Sequence[Lane], wanted: int) -> Counter[Lane]:
        """Give `wanted` jobs away, always to the tenant with the least by its weight."""
        shares: Counter[Lane] = Counter()
        by_tenant: dict[UUID, deque[Lane]] = defaultdict(deque)
        for lane in lanes:
            by_tenant[lane.tenant_id].append(lane)
        line = [(self.loads.of(tenant), n, tenant) for n, tenant in enumerate(by_tenant)]
        heapq.heapify(line)
        step = max(1, wanted // (8 * len(lanes)))
        left = wanted
        while left:
            load, n, tenant = heapq.heappop(line)
            given = min(step, left)
            own = by_tenant[tenant]
            shares[own[0]] += given
            own.rotate(-1)
            left -= given
            heapq.heappush(line, (load + given / self.loads.weight(tenant), n, tenant))
        return shares

    def _came_short(self, lane: Lane, known: _Known) -> None:
        if lane.kind in self.limited:
            known.blocked = True
            self._blocked.add(lane)
        else:
            self._forget(lane)

    def _unblock(self, lane: Lane, known: _Known) -> None:
        known.blocked = False
        self._blocked.discard(lane)

    def _of(self, kinds: Collection[str]) -> Iterator[tuple[Lane, _Known]]:
        """The lanes of these kinds (none: all)."""
        if not kinds:
            yield from self._known.items()
        for kind in kinds:
            yield from self._by_kind.get(kind, {}).items()

    def _learn(self, lane: Lane, known: _Known) -> bool:
        """Keep a lane in mind, if there is room for it and for its tenant's."""
        if len(self._known) >= LANES_MAX or self._of_tenant[lane.tenant_id] >= TENANT_LANES_MAX:
            return False
        self._known[lane] = self._by_kind[lane.kind][lane] = known
        self._of_tenant[lane.tenant_id] += 1
        return True

    def _forget(self, lane: Lane) -> None:
        del self._known[lane], self._by_kind[lane.kind][lane]
        if not self._by_kind[lane.kind]:
            del self._by_kind[lane.kind]
        self._of_tenant[lane.tenant_id] -= 1
        if not self._of_tenant[lane.tenant_id]:
            del self._of_tenant[lane.tenant_id]
        self._blocked.discard(lane)


def _bands(waiting: Sequence[tuple[Lane, _Known]], at: datetime) -> dict[int, int]:
    """When each priority has its turn: its own number, less by the age of its oldest lane, and never after a lower one."""
    oldest: dict[int, datetime] = {}
    for lane, known in waiting:
        oldest[lane.priority] = min(known.floor.run_at, oldest.get(lane.priority, known.floor.run_at))
    bands: dict[int, int] = {}
    lower = LOWEST
    for priority in range(LOWEST, 0, -1):
        steps = (at - oldest[priority]) // AGEING if priority in oldest else 0
        lower = bands[priority] = min(lower, max(1, priority - max(0, steps)))
    return bands


def _by_tenant(counts: Mapping[Lane, int]) -> Counter[UUID]:
    totals: Counter[UUID] = Counter()
    for lane, count in counts.items():
        totals[lane.tenant_id] += count
    return totals
