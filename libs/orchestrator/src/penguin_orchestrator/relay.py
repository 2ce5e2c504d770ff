"""The outbox relay: leases what tiers owe, delivers it at least once, settles. `python -m penguin_orchestrator.relay`.
Beside it, in the same process, sagas are recovered.

It owns nothing and may die at any point: a lease runs out, and another relay delivers again. Several may run side by side.
A destination that is away is left out of the leases for a while, so that it delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import uvloop
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penguin.tier.v1 import tier_service_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis import memory
from penguin_chassis.defects import places
from penguin_chassis.signals import until_stopped
from penguin_chassis.telemetry import telemetry
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.config import RelayConfig
from penguin_orchestrator.deliveries import DELIVERIES, DESTINATIONS, Row, UndeliverableError
from penguin_orchestrator.errors import LATER, TierError
from penguin_orchestrator.ledger_marks import keep_looking
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.scheduling import keep_reconciling
from penguin_orchestrator.sagas.recovery import Recovery

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("penguin.relay")
_propagator = TraceContextTextMapPropagator()

LEASE_S = 30
# How long the delivery of leased rows may take: less than the lease, for the settlement to come within it.
DELIVERY_S = LEASE_S * 0.8
MAX_TENANTS = 50
IDLE_MIN_S = 0.02
IDLE_MAX_S = 0.5
# A tier that does not answer is asked again after this long, doubling (seconds).
AWAY_MIN_S = 0.25
AWAY_MAX_S = 5.0
RETRY_MIN_S = 0.5
RETRY_MAX_S = 300.0
# Failures that say nothing about the row: they end with the outage.
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "TimeoutError")


@dataclass(frozen=True)
class _Outcome:
    """What became of a group of rows: nothing is delivered, or why not."""

    rows: Sequence[pb.OutboxRow]
    error: str = ""
    # Their tenant alone is to wait for so long, by the word of a tier that is there (seconds).
    after_s: float = 0.0


class _Away:
    """Destinations that do not answer, and until when they are left alone."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._delay: dict[str, float] = {}

    def failed(self, destination: str) -> None:
        """Leave it alone for a while, longer each time."""
        if self._until.get(destination, 0.0) > time.monotonic():
            return
        delay = self._delay[destination] = min(self._delay.get(destination, AWAY_MIN_S / 2) * 2, AWAY_MAX_S)
        self._until[destination] = time.monotonic() + delay * random.uniform(0.75, 1.0)

    def answered(self, destination: str) -> None:
        """It is back."""
        self._until.pop(destination, None)
        self._delay.pop(destination, None)

    def present(self) -> list[str]:
        """Destinations worth leasing for."""
        now = time.monotonic()
        return [d for d in DESTINATIONS if self._until.get(d, 0.0) <= now]


class Relay:
    """Moves one tier's outbox to where it belongs."""

    def __init__(self, source: Tier, tiers: Mapping[str, Tier], batch: int) -> None:
        self._source = source
        self._tiers = tiers
        self._batch = batch
        self._away = _Away()
        # Destinations with rows under way: a slow one is not leased for again, and the others do not wait for it.
        self._busy: set[str] = set()
        self._carried = asyncio.Event()

    async def run(self) -> None:
        """Relay until cancelled; backs off while there is nothing, or while the tier is away."""
        idle = IDLE_MIN_S
        async with asyncio.TaskGroup() as group:
            while True:
                self._carried.clear()
                try:
                    leased = await self._lease()
                    idle = IDLE_MIN_S if leased.rows else min(idle * 1.5, IDLE_MAX_S)
                    for destination, rows in _by_destination(leased.rows):
                        self._busy.add(destination)
                        group.create_task(self._carry_aside(leased.lease_token, destination, rows))
                except TierError as error:
                    if not error.retryable:
                        log.error("%s refuses the relay: %s", self._source.name, error.reason)
                    idle = min(max(idle, AWAY_MIN_S) * 2, AWAY_MAX_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(idle * random.uniform(0.5, 1.0)):
                        await self._carried.wait()
                        idle = IDLE_MIN_S

    async def turn(self) -> int:
        """Lease once, deliver, settle; returns how many rows were leased."""
        leased = await self._lease()
        await asyncio.gather(*(self._carry(leased.lease_token, rows) for _, rows in _by_destination(leased.rows)))
        return len(leased.rows)

    async def _lease(self) -> pb.LeaseOutboxResponse:
        destinations = [each for each in self._away.present() if each not in self._busy]
        if not destinations:
            return pb.LeaseOutboxResponse()
        request = pb.LeaseOutboxRequest(max_rows=self._batch, max_tenants=MAX_TENANTS, destinations=destinations)
        request.lease_duration.FromSeconds(LEASE_S)
        leased: pb.LeaseOutboxResponse = await self._source.call(
            self._source.stub(TierServiceStub).LeaseOutbox, request
        )
        return leased

    async def _carry_aside(self, token: str, destination: str, rows: Sequence[pb.OutboxRow]) -> None:
        try:
            await self._carry(token, rows)
        finally:
            self._busy.discard(destination)
            self._carried.set()

    async def _carry(self, token: str, rows: Sequence[pb.OutboxRow]) -> None:
        outcomes = await asyncio.gather(*(self._deliver(*group) for group in _groups(rows)))
        await self._settle(token, [outcome for each in outcomes for outcome in each])

    async def _deliver(
        self, tenant_id: UUID, destination: str, kind: str, rows: Sequence[pb.OutboxRow]
    ) -> list[_Outcome]:
        if (destination, kind) not in DELIVERIES:
            return [_Outcome(rows, f"nobody delivers {destination}/{kind}")]
        parent, links = _origins(rows)
        with _tracer.start_as_current_span(
            f"relay {kind}", context=parent, links=links, kind=SpanKind.CONSUMER, record_exception=False
        ) as span:
            span.set_attribute("penguin.rows", len(rows))
            ends = time.monotonic() + DELIVERY_S
            outcomes = await self._deliver_within(ends, tenant_id, destination, kind, rows)
        if any(not outcome.error for outcome in outcomes):
            self._away.answered(destination)
        return outcomes

    async def _deliver_within(
        self, ends: float, tenant_id: UUID, destination: str, kind: str, rows: Sequence[pb.OutboxRow]
    ) -> list[_Outcome]:
        """Deliver together; where rows are refused for what they ask, halve them until the refused one stands alone."""
        try:
            async with asyncio.timeout(max(0.0, ends - time.monotonic())):
                await DELIVERIES[destination, kind](self._tiers, tenant_id, [Row.of(row) for row in rows])
            return [_Outcome(rows)]
        except TierError as error:
            failure = f"{error.code.name} {error.reason}"
            if error.of_tenant:
                return [_Outcome(rows, failure, error.retry_after_s or 0.0)]
            if error.away:
                self._away.failed(destination)
            if error.away or error.code in LATER:
                return [_Outcome(rows, failure)]
        except TimeoutError:
            return [_Outcome(rows, "TimeoutError")]
        except UndeliverableError as error:
            failure = str(error)
        except Exception as error:  # noqa: BLE001 - a row that nobody understands must not end the relay
            log.error("rows for %s/%s: %s", destination, kind, type(error).__name__, extra={"places": places(error)})
            failure = type(error).__name__
        if len(rows) == 1:
            return [_Outcome(rows, failure)]
        half = len(rows) // 2
        return [
            *await self._deliver_within(ends, tenant_id, destination, kind, rows[:half]),
            *await self._deliver_within(ends, tenant_id, destination, kind, rows[half:]),
        ]

    async def _settle(self, token: str, outcomes: Sequence[_Outcome]) -> None:
        request = pb.SettleOutboxRequest(lease_token=token)
        for outcome in outcomes:
            for row in outcome.rows:
                if not outcome.error:
                    request.delivered.add(tenant_id=row.tenant_id, id=row.id)
                    continue
                failure = request.failed.add(tenant_id=row.tenant_id, id=row.id, error=outcome.error[:200])
                delay = min(RETRY_MIN_S * 2 ** min(row.attempt, 12), RETRY_MAX_S)
                # An outage must not leave rows waiting for minutes after it has ended.
                if outcome.error.startswith(_PASSING):
                    delay = min(delay, AWAY_MAX_S)
                delay = max(delay * random.uniform(0.5, 1.0), outcome.after_s * random.uniform(1.0, 1.25))
                failure.retry_delay.FromMilliseconds(int(delay * 1000))
        with contextlib.suppress(TierError):  # unsettled rows come back when their lease runs out
            method = self._source.stub(TierServiceStub).SettleOutbox
            await self._source.insist(method, request, deadline_s=LEASE_S / 3)


def _by_destination(rows: Sequence[pb.OutboxRow]) -> list[tuple[str, list[pb.OutboxRow]]]:
    def key(row: pb.OutboxRow) -> str:
        return row.destination

    return [(destination, list(part)) for destination, part in itertools.groupby(sorted(rows, key=key), key)]


def _groups(
    rows: Sequence[pb.OutboxRow],
) -> list[tuple[UUID, str, str, list[pb.OutboxRow]]]:
    """Rows that can be delivered in one call: of one tenant, to one destination, of one kind."""

    def key(row: pb.OutboxRow) -> tuple[str, str, str]:
        return row.tenant_id, row.destination, row.kind

    return [
        (UUID(tenant), destination, kind, list(group))
        for (tenant, destination, kind), group in itertools.groupby(sorted(rows, key=key), key)
    ]


def _origins(rows: Sequence[pb.OutboxRow]) -> tuple[Context | None, list[Link]]:
    """One row continues its trace; several are linked to theirs, the first being continued."""
    contexts = [_propagator.extract({"traceparent": row.traceparent}) for row in rows if row.traceparent]
    if not contexts:
        return None, []
    return contexts[0], [Link(trace.get_current_span(context).get_span_context()) for context in contexts[1:]]


async def _main(config: RelayConfig) -> None:
    stopped = asyncio.create_task(until_stopped(signal.SIGTERM, signal.SIGINT))
    async with Penguin.connect() as penguin:
        relays = [Relay(penguin.tiers[name], penguin.tiers, config.batch) for name in config.tiers.split(",")]
        tasks = [asyncio.create_task(relay.run()) for relay in relays]
        if config.reconcile_every_s:
            every, terms = timedelta(seconds=config.reconcile_every_s), Terms(apply=config.reconcile_apply)
            tasks.append(asyncio.create_task(keep_reconciling(penguin.reconciler, terms, every)))
        tasks.append(asyncio.create_task(Recovery(penguin.sagas.engine).run()))
        if penguin.ledger is not None:
            tasks.append(asyncio.create_task(keep_looking(penguin.tiers, penguin.ledger)))
        memory.settle()
        log.info("relaying for %s", config.tiers)
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # a defect: end, and be started anew
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Entry point; returns the exit status."""
    config = RelayConfig()
    with telemetry(config.telemetry()):
        uvloop.run(_main(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
