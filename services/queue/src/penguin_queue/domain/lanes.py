"""Which ready jobs go first: lanes, whose turn it is, and how much of a lease each gets. Pure: times are passed in.

A lane is the ready jobs of one priority, kind and tenant. What a process knows of lanes is a hint: a lane that is not known is
found by the next survey, and one that is known may turn out to be empty. The database alone says which jobs are ready.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from penguin_queue.domain.crowd import Crowd
from penguin_queue.domain.limits import PROBED, Limits, Rooms
from penguin_queue.domain.line import Line
from penguin_queue.domain.loads import Loads
from penguin_queue.domain.paces import Paces
from penguin_queue.domain.turns import UNCAPPED, Head, Lane, Place, Taken, Turn

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
# Lanes that one lease looks into at most; the others come with the next.
REACH = 64
# A small lease looks into this many for each of its jobs, and some more, should the first have been emptied by others.
SPARE, MORE = 2, 6
# Lanes that are kept in mind (about a kilobyte each), and one part in so many of them that the other priorities leave to each. A
# new one beyond them is learnt in the place of another (see Crowd), which a survey finds again.
LANES_MAX = 50_000
RESERVED = 10


@dataclass(slots=True)
class _Known:
    # No job before it is ready, as far as is known.
    floor: Place
    # When it was told of and served last, in the order of such events.
    told: int
    served: int = 0
    # Its rate lets nothing go before.
    rests_until: datetime | None = None


class _Lines(NamedTuple):
    """The lanes of one kind and priority that can be leased from: by whose turn it is, and by how long they have waited."""

    kind: str
    turns: Line[Lane]
    ages: Line[Lane]


class Lanes:
    """The lanes that are believed to have ready jobs."""

    def __init__(self) -> None:
        self.loads = Loads(self._lowered)
        # Of kinds of which only so many jobs may be in flight a lane may have jobs though none is to be had.
        self.limits = Limits()
        self.paces = Paces()
        self._known: dict[Lane, _Known] = {}
        self._lines: dict[str, dict[int, _Lines]] = {}
        self._crowd: Crowd[Lane] = Crowd()
        # The last that a survey put in the place of one alike.
        self._newest: Lane | None = None
        self._of_kind: Counter[str] = Counter()
        self._leases = 0
        self._resting: list[tuple[datetime, Lane]] = []
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
        known.told = self._events
        self._lower(lane, known, place)

    def surveyed(self, mark: int, heads: Sequence[Head], *, whole: bool) -> list[Lane]:
        """What a survey that began at `mark` found, of all lanes where it is a `whole` one; returns the lanes that were not
        known to have anything."""
        new: list[Lane] = []
        if whole:
            found = {head.lane for head in heads}
            for lane in [lane for lane, known in self._known.items() if lane not in found and known.told <= mark]:
                self._forget(lane)
        if (newest := self._newest) is not None:
            # Those after the last that was let in: where not all can be known they take turns.
            heads = sorted(heads, key=lambda head: head.lane <= newest)
        for head in heads:
            known = self._known.get(head.lane)
            if known is not None:
                if known.told <= mark:
                    known.floor = max(known.floor, head.place)
                self._lower(head.lane, known, head.place)
            elif self._learn(head.lane, _Known(head.place, mark), alike=True):
                new.append(head.lane)
        return new

    def choose(self, kinds: Collection[str], wanted: int, at: datetime) -> list[Turn]:
        """Whose turn it is where a worker of these kinds (none: all) can take so many: least loaded tenants first."""
        self._wake(at)
        self.limits.wake(at)
        self.paces.wake(at)
        lines = self._lines_of(kinds)
        bands_of = _bands(lines, at)
        self._leases += 1
        turns: list[Turn] = []
        limits = self.limits
        eldest = self._eldest(lines) if self._leases % ELDEST_EVERY == 0 else None
        if eldest is not None and at - self._known[eldest].floor.run_at >= LONG:
            limited = limits.queue(eldest.kind) is not None
            turns.append(Turn(eldest, 1, 1, self._known[eldest].floor, limited=limited))
        most = reach(wanted)
        bands: dict[int, list[Lane]] = {}
        for band in sorted(set(bands_of.values())):
            found = self._first([each for each in lines if bands_of[each[0]] == band], most)
            most -= len(found)
            bands[band] = [lane for lane in found if not turns or lane != eldest]
        for band, lanes in bands.items():
            if not lanes:
                continue
            shares = self._shares(lanes, wanted - sum(turn.share for turn in turns if turn.band == band))
            few = self._few(lanes, wanted)
            for lane in lanes:
                cap = few if self.paces.short(lane.kind) else UNCAPPED
                limited = limits.queue(lane.kind) is not None
                turns.append(Turn(lane, band, min(shares[lane], cap), self._known[lane].floor, cap, limited))
        return turns

    def leased(
        self,
        mark: int,
        turns: Sequence[Turn],
        wanted: int,
        rows: Iterable[Taken],
        *,
        spent: bool = False,
        rooms: Rooms | None = None,
    ) -> None:
        """What a lease that began at `mark` took of its turns; where it is `spent` it ended by the bytes of what it took. `rooms`
        are what it left of queues with a limit."""
        counts: Counter[Lane] = Counter()
        last: dict[Lane, Place] = {}
        for lane, jobs, place, *_ in rows:
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
                self._crowd.served(turn.lane)
            if known.told > mark:
                continue
            if turn.lane in last:
                known.floor = max(known.floor, last[turn.lane])
            # A lease that is full has looked into no more than the first band for certain.
            looked = not spent and (total < wanted or turn.band == turns[0].band)
            if looked and counts[turn.lane] < min(turn.cap, wanted if total < wanted else turn.share):
                self._came_short(turn.lane, rooms or {})
        # What it had locked beyond its bytes is there, though a lease that met the locks found nothing.
        for lane, place in last.items() if spent else ():
            self.told(lane, place)

    def rest(self, lane: Lane, until: datetime) -> None:
        """Pass a lane over until then: its rate lets nothing go."""
        if (known := self._known.get(lane)) is not None:
            known.rests_until = until
            heapq.heappush(self._resting, (until, lane))

    def knows(self, kinds: Collection[str]) -> bool:
        """Whether there is believed to be something of these kinds (none: of any), to be had or not."""
        return any(kind in self._of_kind for kind in kinds) if kinds else bool(self._of_kind)

    def open_kind(self, kinds: Collection[str]) -> str | None:
        """A kind among these (none: any) of which there may be more."""
        among = kinds or self._of_kind
        return next((kind for kind in among if self._of_kind[kind] and not self._shut(kind)), None)

    def _lines_of(self, kinds: Collection[str]) -> list[tuple[int, _Lines]]:
        """What there may be had of these kinds (none: all), by priority. Full queues, and those without tokens, are passed over as
        a whole."""
        among = [kind for kind in dict.fromkeys(kinds or self._lines) if not self._shut(kind)]
        return [pair for kind in among for pair in self._lines.get(kind, {}).items()]

    def _first(self, lines: Sequence[tuple[int, _Lines]], most: int) -> list[Lane]:
        """The first so many of all of them together, and of a limited queue no more than there is room, or tokens, for."""
        with contextlib.ExitStack() as stack:
            together: list[Iterable[tuple[Any, Lane]]] = []
            bounded: dict[int | str, tuple[int, list[Iterable[tuple[Any, Lane]]]]] = {}
            for _, each in lines:
                ordered = stack.enter_context(contextlib.closing(each.turns.ordered()))
                queue, room = self._room(each.kind)
                if queue is None or room is None:
                    together.append(ordered)
                else:
                    bounded.setdefault(queue, (room, []))[1].append(ordered)
            for room, own in bounded.values():
                together.append(itertools.islice(heapq.merge(*own), reach(room)))
            return [lane for _, lane in itertools.islice(heapq.merge(*together), max(0, most))]

    def _shut(self, kind: str) -> bool:
        return self.limits.full(kind) or self.paces.dry(kind)

    def _room(self, kind: str) -> tuple[int | str | None, int | None]:
        """How many jobs of a kind's queue may be had, as far as that is known, and what it is shared by."""
        queue, short = self.limits.queue(kind), self.paces.short(kind)
        room = None if queue is None else self.limits.room(queue)
        if short is None:
            return queue, room
        return (short if queue is None else queue), PROBED if room is None else min(room, PROBED)

    def _eldest(self, lines: Sequence[tuple[int, _Lines]]) -> Lane | None:
        firsts = [first for _, each in lines if (first := each.ages.first()) is not None]
        return min(firsts)[1] if firsts else None

    def _wake(self, at: datetime) -> None:
        """Those whose rest is over are in line again."""
        while self._resting and self._resting[0][0] <= at:
            _, lane = heapq.heappop(self._resting)
            known = self._known.get(lane)
            if known is not None and known.rests_until is not None and known.rests_until <= at:
                known.rests_until = None
                self._line_up(lane)

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

    def _few(self, lanes: Sequence[Lane], wanted: int) -> int:
        """How much each of those may give that have few tokens: half of it all together, if there are others."""
        short = sum(self.paces.short(lane.kind) is not None for lane in lanes)
        return max(1, wanted // (2 * short)) if 0 < short < len(lanes) else UNCAPPED

    def _came_short(self, lane: Lane, rooms: Rooms) -> None:
        # Where the lease found no room, or left none, it may have jobs all the same: by now there may be room again.
        queue = self.limits.queue(lane.kind)
        if queue is None or rooms.get(queue):
            self._forget(lane)

    def _lower(self, lane: Lane, known: _Known, place: Place) -> None:
        """There may be a job before what was known to be the first."""
        if place < known.floor:
            known.floor = place
            self._lines[lane.kind][lane.priority].ages.put(lane)

    def _lowered(self, tenants: Collection[UUID]) -> None:
        for lane in itertools.chain.from_iterable(map(self._crowd.of, tenants)):
            self._lines[lane.kind][lane.priority].turns.put(lane)

    def _turn(self, lane: Lane) -> tuple[float, int] | None:
        """What its turn goes by; nothing where it cannot be leased from."""
        known = self._known.get(lane)
        if known is None or known.rests_until is not None:
            return None
        return self.loads.of(lane.tenant_id), known.served

    def _age(self, lane: Lane) -> datetime | None:
        known = self._known.get(lane)
        return None if known is None or known.rests_until is not None else known.floor.run_at

    def _line_up(self, lane: Lane) -> None:
        """It can be leased from, and could not before."""
        lines = self._lines[lane.kind][lane.priority]
        lines.turns.put(lane)
        lines.ages.put(lane)

    def _learn(self, lane: Lane, known: _Known, *, alike: bool = False) -> bool:
        """Keep a lane in mind, if there is room for it and for its tenant's, or another gives way."""
        full = len(self._crowd.of(lane.tenant_id)) >= TENANT_LANES_MAX
        if full or len(self._known) >= LANES_MAX:
            crowd, reserve = self._crowd, LANES_MAX // RESERVED
            given = crowd.gives_own_way(lane, alike=alike) if full else crowd.gives_way(lane, reserve, alike=alike)
            if given is None:
                return False
            self._forget(given)
            if alike:
                self._newest = lane
        self._known[lane] = known
        self._crowd.add(lane)
        self._of_kind[lane.kind] += 1
        by_priority = self._lines.setdefault(lane.kind, {})
        if lane.priority not in by_priority:
            by_priority[lane.priority] = _Lines(lane.kind, Line(self._turn), Line(self._age))
        self._line_up(lane)
        return True

    def _forget(self, lane: Lane) -> None:
        del self._known[lane]
        self._crowd.drop(lane)
        self._of_kind[lane.kind] -= 1
        if not self._of_kind[lane.kind]:
            del self._of_kind[lane.kind], self._lines[lane.kind]


def reach(wanted: int) -> int:
    """How many lanes are looked into for so many jobs."""
    return min(REACH, SPARE * wanted + MORE)


def _bands(lines: Sequence[tuple[int, _Lines]], at: datetime) -> dict[int, int]:
    """When each priority has its turn: its own number, less by the age of its oldest lane, and never after a lower one."""
    oldest: dict[int, datetime] = {}
    for priority, each in lines:
        if (first := each.ages.first()) is not None:
            oldest[priority] = min(first[0], oldest.get(priority, first[0]))
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
