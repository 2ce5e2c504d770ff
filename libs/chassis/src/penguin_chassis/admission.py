"""Admits tenants' calls to a process: how many a tenant may have under way, and whose are begun next.

A process works on one core and takes calls from the network in the order in which they came, whoever sent them: while it is busy
with a hundred calls of one tenant, everybody's wait in front of the door, where nobody knows yet whose they are. So a tenant that
asks for more than its share, others being active, has its calls wait in a line of its own; lines are served one call at a time,
and only with what the others leave of the process.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from penguin_chassis.faults import ResourceExhausted

# Calls of one tenant that may be under way in this process, those that wait among them ("100 connections per tenant" of the source
# documents).
TENANT_IN_FLIGHT = 100
# A tenant may have so many begun at once, however many others are active.
LEAST_SHARE = 2
# A tenant is active so long after its last call (seconds).
ACTIVE_S = 5.0
# Who has begun more than so many times the calls of an average active tenant of late is over its share; "of late" is by this
# half-life (seconds), and while all together have begun fewer than so many, nobody is.
OVER, HALF_LIFE_S, FEW = 1.5, 1.0, 20.0
# Tenants over their share bring the process to this much of a processor, whoever else has a part of it: at more, everybody's calls
# find it busy. What was left unused is kept for a moment, and what was used too much is remembered for one (seconds of processor).
BUSY, SAVED_S, OWED_S = 0.5, 0.001, 0.05
# However busy it is, the next call of each of them is begun after so long, and of all of them no sooner than this (seconds).
TURN_MAX_S, TURNS_APART_S = 0.02, 0.002
# How long a call may wait in its tenant's line before it is shed (seconds), and the least part of that: those who came at one moment are
# not to be shed at one, and felt by everybody else.
LINE_S, LINE_LEAST = 2.0, 0.5
# Callers that are refused are asked to come back one after another: a tenant's so far apart, and at most so late (seconds).
SOONEST_S, APART_S, LATEST_S = 0.1, 0.1, 5.0

Later = Callable[[float, Callable[[], None]], object]


class _Lately:
    """A count that is forgotten by half each HALF_LIFE_S."""

    def __init__(self, at: float) -> None:
        self._count, self._at = 0.0, at

    def more(self, now: float) -> None:
        """One more."""
        self._count, self._at = self.by(now) + 1.0, now

    def by(self, now: float) -> float:
        """What is left of it."""
        return self._count * math.exp2((self._at - now) / HALF_LIFE_S)


class _Budget:
    """What of the processor's time is left for tenants over their share. `spent` tells what the process has had of it (seconds)."""

    def __init__(self, spent: Callable[[], float], at: float) -> None:
        self._spent = spent
        self._left, self._at, self._had = 0.0, at, spent()

    def wait_s(self, now: float) -> float:
        """In how many seconds there is something left; 0 where there is."""
        had = self._spent()
        left = self._left + BUSY * (now - self._at) - (had - self._had)
        self._left, self._at, self._had = max(-OWED_S, min(left, SAVED_S)), now, had
        return max(0.0, -self._left / BUSY)


@dataclass
class _Tenant:
    """One tenant's calls: those begun, now and of late, and its line."""

    seen: float
    lately: _Lately
    begun: int = 0
    line: deque[asyncio.Future[None]] = field(default_factory=deque)
    # The number of the last turn that it got.
    turn: int = 0
    # When the last of its callers that were refused was asked to return.
    returning: float = 0.0


class Admission:
    """The calls of a process. `clock` tells seconds, `later` has something done after some, `spent` tells the process' seconds of
    processor."""

    def __init__(
        self,
        places: int,
        clock: Callable[[], float] | None = None,
        later: Later | None = None,
        spent: Callable[[], float] | None = None,
    ) -> None:
        self._places = places
        # Looked up now: a simulation puts its own clocks there.
        self._clock = clock or time.monotonic
        self._later = later
        self._budget = _Budget(spent or time.process_time, self._clock())
        # Those that are active, by when they called last.
        self._tenants: OrderedDict[UUID, _Tenant] = OrderedDict()
        # Those that have a line.
        self._lines: dict[UUID, _Tenant] = {}
        self._lately = _Lately(self._clock())
        self._turns = itertools.count(1)
        # Whether the next turn of those over their share is on its way.
        self._arranged = False

    @property
    def waiting(self) -> int:
        """How many calls wait in lines."""
        return sum(len(tenant.line) for tenant in self._lines.values())

    @property
    def under_way(self) -> int:
        """How many calls are begun, or wait."""
        return self.waiting + sum(tenant.begun for tenant in self._tenants.values())

    @property
    def share(self) -> int:
        """Calls of one tenant that may be begun at once: an even part of the places among those who are active. Who is alone has
        nobody to wait for."""
        active = len(self._tenants)
        return TENANT_IN_FLIGHT if active <= 1 else max(LEAST_SHARE, self._places // active)

    def enter(self, key: UUID) -> asyncio.Future[None] | None:
        """Begin a call of the tenant, which ends with `leave`; or what it is to `wait` for.

        Raises ResourceExhausted where the tenant has too many.
        """
        now = self._clock()
        tenant = self._seen(key, now)
        if tenant.begun + len(tenant.line) >= TENANT_IN_FLIGHT:
            raise self._too_many(tenant, now)
        return self._enter(key, tenant, now)

    def _enter(self, key: UUID, tenant: _Tenant, now: float) -> asyncio.Future[None] | None:
        if not tenant.line and tenant.begun < self.share and not self._over(tenant, now):
            self._begin(tenant, now)
            return None
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tenant.line.append(place)
        self._lines[key] = tenant
        self._arrange(now)
        return place

    async def turn(self, key: UUID, timeout_s: float) -> None:
        """Begin one more message of a stream, which is as much work as a call. It waits for as long as its stream may last: its
        client sends no more meanwhile, so that there are no more of them in line than streams, and none is refused for the calls
        beside it. Raises TimeoutError."""
        now = self._clock()
        place = self._enter(key, self._seen(key, now), now)
        if place is not None:
            await self.wait(key, place, timeout_s, line_s=timeout_s)
        self.leave(key)

    async def wait(
        self, key: UUID, place: asyncio.Future[None], timeout_s: float, *, line_s: float | None = None
    ) -> None:  # fmt: skip
        """Wait for the place that `enter` gave; if this raises, there is none to `leave`.

        Raises ResourceExhausted after `line_s` seconds, or LINE_S at most, and TimeoutError where the call's own time is over before.
        """
        line_s = line_s or LINE_S * random.uniform(LINE_LEAST, 1.0)
        try:
            async with asyncio.timeout(min(timeout_s, line_s)):
                await place
        except BaseException as error:
            tenant = self._seen(key, self._clock())
            if place.done() and not place.cancelled():
                self.leave(key)  # it came at the very moment we gave up
            elif place in tenant.line:
                tenant.line.remove(place)
                self._close_line(key, tenant)
            if isinstance(error, TimeoutError) and timeout_s > line_s:
                raise self._too_many(tenant, self._clock()) from None
            raise

    def leave(self, key: UUID) -> None:
        """A call that was begun has ended."""
        tenant = self._tenants[key]
        tenant.begun -= 1
        if tenant.line:
            now = self._clock()
            self._forget(now)
            while tenant.line and tenant.begun < self.share and not self._over(tenant, now):
                self._serve(key, tenant, now)
            self._arrange(now)

    def _seen(self, key: UUID, now: float) -> _Tenant:
        tenant = self._tenants.get(key)
        if tenant is None:
            tenant = self._tenants[key] = _Tenant(now, _Lately(now))
        tenant.seen = now
        self._tenants.move_to_end(key)
        self._forget(now)
        return tenant

    def _forget(self, now: float) -> None:
        """Leave out who is not active any more."""
        while self._tenants:
            key, tenant = next(iter(self._tenants.items()))
            if tenant.seen > now - ACTIVE_S:
                return
            if tenant.begun or tenant.line:
                tenant.seen = now
                self._tenants.move_to_end(key)
            else:
                del self._tenants[key]

    def _over(self, tenant: _Tenant, now: float) -> bool:
        """Whether it has begun more than its share of late."""
        active, all_begun = len(self._tenants), self._lately.by(now)
        return active > 1 and all_begun > FEW and tenant.lately.by(now) > OVER * all_begun / active

    def _begin(self, tenant: _Tenant, now: float) -> None:
        tenant.begun += 1
        tenant.lately.more(now)
        self._lately.more(now)

    def _serve(self, key: UUID, tenant: _Tenant, now: float) -> None:
        """Begin the call that waits longest, unless its caller has just gone."""
        place = tenant.line.popleft()
        self._close_line(key, tenant)
        if not place.done():
            self._begin(tenant, now)
            tenant.turn = next(self._turns)
            place.set_result(None)

    def _close_line(self, key: UUID, tenant: _Tenant) -> None:
        if not tenant.line:
            self._lines.pop(key, None)

    def _ready(self) -> list[tuple[int, int, UUID]]:
        """Those with a line who may have more begun: how many they have, and when they had a turn."""
        share = self.share
        return [(tenant.begun, tenant.turn, key) for key, tenant in self._lines.items() if tenant.begun < share]

    def _arrange(self, now: float) -> None:
        """Have the lines' next turn come, if there is anybody for it."""
        if not self._arranged and (ready := self._ready()):
            # Those that do a little more than most are over their share, too: they are not to pay for each other.
            after_s = min(self._budget.wait_s(now), max(TURN_MAX_S / len(ready), TURNS_APART_S))
            self._arranged = True
            (self._later or asyncio.get_running_loop().call_later)(after_s, self._take_turn)

    def _take_turn(self) -> None:
        """Begin a call of the tenant that has the fewest begun; among several, of the one whose turn is longest ago."""
        now = self._clock()
        self._arranged = False
        self._forget(now)
        if ready := self._ready():
            key = min(ready)[2]
            self._serve(key, self._lines[key], now)
        self._arrange(now)

    def _too_many(self, tenant: _Tenant, now: float) -> ResourceExhausted:
        # Were all asked to come at one moment, all would be refused again at one moment, and everybody else wait for that.
        tenant.returning = min(max(now + SOONEST_S, tenant.returning + APART_S), now + LATEST_S)
        return ResourceExhausted(
            f"The tenant has too many calls under way here; {TENANT_IN_FLIGHT} may be.",
            retry_after_s=tenant.returning - now,
        )
