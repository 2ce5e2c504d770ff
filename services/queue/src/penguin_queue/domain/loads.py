"""How much of the workers each tenant has. Pure: times are passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from uuid import UUID

# What a tenant has that is given no other weight.
ORDINARY_WEIGHT = 100
# After so long half of what a tenant's jobs have taken is forgotten (seconds).
HALF_LIFE_S = 5.0
# Below this many jobs in flight a tenant is taken to have none.
NONE_IN_FLIGHT = 0.01
# Less than one job at a time is no load: who has that takes turns. Were it one, a tenant whose single job was under way when the
# sample was taken would be behind a thousand others for as long as that is remembered.
NEGLIGIBLE = 1.0


class Loads:
    """How much of the workers each tenant has: jobs in flight, now and lately, by its weight."""

    def __init__(self, lowered: Callable[[Collection[UUID]], None] = lambda tenants: None) -> None:
        # Told of the tenants whose load has become less; that it grows is nobody's news.
        self._lowered = lowered
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
        before = {t: self.of(t) for t in self._lately.keys() | self._in_flight.keys() | self._granted.keys()}
        self._lately = {t: load for t, load in lately.items() if load >= NONE_IN_FLIGHT}
        self._in_flight, self._weights, self._at = in_flight, weights, at
        self._granted.clear()
        self._lowered([t for t, load in before.items() if self.of(t) < load])

    def granted(self, tenant_id: UUID, count: int) -> None:
        """So many were leased since the last sample."""
        self._granted[tenant_id] += count

    def weight(self, tenant_id: UUID) -> float:
        """A tenant's weight, 1 where it is an ordinary one."""
        return self._weights.get(tenant_id, ORDINARY_WEIGHT) / ORDINARY_WEIGHT

    def of(self, tenant_id: UUID) -> float:
        """Jobs in flight by weight: the more it has, the later is its turn."""
        held = max(self._lately.get(tenant_id, 0.0), self._in_flight.get(tenant_id, 0)) + self._granted[tenant_id]
        load = held / self.weight(tenant_id)
        return load if load >= NEGLIGIBLE else 0.0
