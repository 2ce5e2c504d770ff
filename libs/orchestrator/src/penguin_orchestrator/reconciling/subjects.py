"""Looks for people who were erased in every tier, and holds the ledger that ordered it against OLTP's receipts. It changes
nothing: what is found is for somebody to decide."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import grpc

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.erasure_ledger import Entry, ErasureLedger, LedgerError
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling.reading import TIERS, KeyReader, RefusedError, ask, refusal

# People of a tenant whom one run looks for; the next goes on behind them. Some tiers look through a table for each.
PEOPLE = 200
# From then on an order without receipts is told of: by then its saga has ended, or somebody was called for it.
OPEN_FOR = timedelta(days=1)
TIMEOUT_S = 25.0
PAGE = 1000
# What an erasure leaves: users of the tenant's own are listed, and not removed.
KEPT = frozenset({"oltp.users"})

Orders = Mapping[UUID, Sequence[tuple[Entry, list[str]]]]


@dataclass
class Gone:
    """Whether people are gone. `left`: what stands of whom, by erasure and place; `open`: orders without receipts; `unordered`:
    erasures with receipts that the ledger has no order of; `reached`: the record of the ledger that the next run begins behind."""

    reached: int = 0
    looked_for: int = 0
    not_looked_for: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    unordered: list[str] = field(default_factory=list)


async def ordered(ledger: ErasureLedger) -> Orders:
    """What the ledger has ordered, by tenant. Raises RefusedError where it cannot be read: nothing can be said then."""
    try:
        orders = await asyncio.to_thread(ledger.orders)
    except LedgerError as error:
        raise RefusedError(f"the ledger of erasures: {error}") from None
    found: dict[UUID, list[tuple[Entry, list[str]]]] = {}
    for order, keys in orders:
        found.setdefault(order.tenant_id, []).append((order, keys))
    return found


class SubjectsComparison:
    """Looks for one tenant's erased people. Every method raises RefusedError."""

    def __init__(self, tiers: Mapping[str, Tier], reader: KeyReader, tenant_id: UUID, now: datetime) -> None:
        self._tiers = tiers
        self._reader = reader
        self._tenant_id = tenant_id
        self._now = now

    async def recorded(self) -> set[UUID]:
        """Erasures that OLTP has receipts of."""
        oltp = self._tiers["oltp"]
        request = pb.ListErasuresRequest(tenant_id=str(self._tenant_id), page_size=PAGE)
        found: set[UUID] = set()
        while True:
            page = await self._ask(oltp, oltp.stub(SubjectServiceStub).ListErasures, request)
            found.update(UUID(each.id) for each in page.erasures)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def run(self, orders: Sequence[tuple[Entry, list[str]]], after: int) -> Gone:
        """Look for up to PEOPLE of them, in the order of the ledger from behind its record `after`, round and round: each is
        looked for as run follows run."""
        recorded, known = await self.recorded(), {order.erasure_id for order, _ in orders}
        gone = Gone(after, unordered=sorted(str(each) for each in recorded - known))
        # Of who was erased twice the last order stands for both, with all that was known to be theirs.
        people: dict[str, tuple[Entry, set[str]]] = {}
        for order, keys in orders:
            if order.erasure_id in recorded:
                people[order.subject] = order, people.get(order.subject, (order, set()))[1].union(keys)
            elif order.at < self._now - OPEN_FOR:
                gone.open.append(str(order.erasure_id))
        waiting = sorted(people.values(), key=lambda each: (each[0].sequence <= after, each[0].sequence))
        for order, stored in waiting[:PEOPLE]:
            counts = await self._counted(order.address, sorted(stored))
            # One who cannot be looked for in time is not to stand before the others for ever.
            gone.reached = order.sequence
            if counts is None:
                break
            gone.left += [(str(order.erasure_id), each) for each in sorted(counts) if each not in KEPT]
            gone.looked_for += 1
        gone.not_looked_for = len(waiting) - gone.looked_for
        return gone

    async def _counted(self, address: str, stored: Sequence[str]) -> set[str] | None:
        """Where rows of the person's stand, as "oltp.leads"; None where a tier has too many to look through in time."""
        kept = await self._reader.find("content", self._tenant_id, stored)
        found = {place.name for places in kept.values() for place in places}
        request = tier_pb.CountSubjectRowsRequest(tenant_id=str(self._tenant_id), address=address)
        for name in TIERS:
            here = self._tiers[name]
            try:
                reply = await here.call(here.stub(TierServiceStub).CountSubjectRows, request, timeout=TIMEOUT_S)
            except TierError as error:
                if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    return None
                raise refusal(error) from None
            found.update(f"{name}.{table}" for table, count in reply.counts.items() if count)
        return found

    @staticmethod
    async def _ask(tier: Tier, method: Any, request: Any) -> Any:
        return await ask(tier, method, request, TIMEOUT_S)
