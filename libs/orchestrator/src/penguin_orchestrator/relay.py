"""The outbox relay: leases what tiers owe, delivers it at least once, settles. `python -m penguin_orchestrator.relay`.

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
from uuid import UUID

import uvloop
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penguin.tier.v1 import tier_service_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis.signals import until_stopped
from penguin_chassis.telemetry import telemetry
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.config import RelayConfig
from penguin_orchestrator.deliveries import DELIVERIES, DESTINATIONS, Row, UndeliverableError
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.platform import Penguin

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("penguin.relay")
_propagator = TraceContextTextMapPropagator()

LEASE_S = 30
MAX_TENANTS = 50
IDLE_MIN_S = 0.02
IDLE_MAX_S = 0.5
# A tier that does not answer is asked again after this long, doubling (seconds).
AWAY_MIN_S = 0.25
AWAY_MAX_S = 5.0
RETRY_MIN_S = 0.5
RETRY_MAX_S = 300.0


@dataclass(frozen=True)
class _Outcome:
    """What became of a group of rows: nothing is delivered, or why not."""

    rows: Sequence[pb.OutboxRow]
    error: str = ""


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

    async def run(self) -> None:
        """Relay until cancelled; backs off while there is nothing, or while the tier is away."""
        idle = IDLE_MIN_S
        while True:
            try:
                moved = await self.turn()
                idle = IDLE_MIN_S if moved else min(idle * 1.5, IDLE_MAX_S)
            except TierError as error:
                if not error.retryable:
                    log.error("%s refuses the relay: %s", self._source.name, error.reason)
                idle = min(max(idle, AWAY_MIN_S) * 2, AWAY_MAX_S)
            await asyncio.sleep(idle * random.uniform(0.5, 1.0))

    async def turn(self) -> int:
        """Lease once, deliver, settle; returns how many rows were leased."""
        destinations = self._away.present()
        if not destinations:
            return 0
        request = pb.LeaseOutboxRequest(max_rows=self._batch, max_tenants=MAX_TENANTS, destinations=destinations)
        request.lease_duration.FromSeconds(LEASE_S)
        service = self._source.stub(TierServiceStub)
        leased = await self._source.call(service.LeaseOutbox, request)
        if leased.rows:
            outcomes = await asyncio.gather(*(self._deliver(*group) for group in _groups(leased.rows)))
            await self._settle(leased.lease_token, outcomes)
        return len(leased.rows)

    async def _deliver(self, tenant_id: UUID, destination: str, kind: str, rows: Sequence[pb.OutboxRow]) -> _Outcome:
        deliver = DELIVERIES.get((destination, kind))
        if deliver is None:
            return _Outcome(rows, f"nobody delivers {destination}/{kind}")
        parent, links = _origins(rows)
        with _tracer.start_as_current_span(
            f"relay {kind}", context=parent, links=links, kind=SpanKind.CONSUMER, record_exception=False
        ) as span:
            span.set_attribute("penguin.rows", len(rows))
            try:
                async with asyncio.timeout(LEASE_S * 0.8):
                    await deliver(self._tiers, tenant_id, [Row.of(row) for row in rows])
            except TierError as error:
                if error.retryable:
                    self._away.failed(destination)
                return _Outcome(rows, f"{error.code.name} {error.reason}")
            except (TimeoutError, UndeliverableError, KeyError, ValueError) as error:
                words = str(error) if isinstance(error, UndeliverableError) else type(error).__name__
                return _Outcome(rows, words)
        self._away.answered(destination)
        return _Outcome(rows)

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
                if outcome.error.startswith("UNAVAILABLE"):
                    delay = min(delay, AWAY_MAX_S)
                failure.retry_delay.FromMilliseconds(int(delay * random.uniform(500, 1000)))
        with contextlib.suppress(TierError):  # unsettled rows come back when their lease runs out
            method = self._source.stub(TierServiceStub).SettleOutbox
            await self._source.insist(method, request, deadline_s=LEASE_S / 3)


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
