"""Assembles a tier's gRPC server from its servicers, and ends it in good order.

Functions that a tier calls, never a base class. It opens nothing of the tier's own: databases and stores are the caller's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.instrumentation.grpc import aio_server_interceptor

from penguin_chassis.auth import Verifier
from penguin_chassis.clock import Now
from penguin_chassis.interceptors import Gate, Sanitiser
from penguin_chassis.methods import EXEMPT_SERVICES, declared
from penguin_chassis.pool import Database
from penguin_chassis.refusals import Refusals
from penguin_chassis.restoring import Incarnation
from penguin_chassis.settings import ServerSettings
from penguin_chassis.tenancy import ClosedTenants

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 4 * 1024 * 1024
LIVENESS = "liveness"
READINESS = "readiness"


@dataclass(frozen=True)
class Registration:
    """A servicer, the generated function that adds it to a server, and its service's full name."""

    service: str
    add: Callable[[Any, grpc.aio.Server], None]
    servicer: Any


@dataclass
class State:
    """What changes while a server runs."""

    draining: bool = False
    closed: ClosedTenants = field(default_factory=ClosedTenants)
    incarnation: Incarnation = field(default_factory=Incarnation)
    refusals: Refusals = field(default_factory=Refusals)

    def of(self, db: Database) -> None:
        """Name the database that is served."""
        self.incarnation.of(db)
        self.refusals.of(db)


@dataclass
class Running:
    """A server that serves: its port, and the state that health and status report."""

    port: int
    health: health.aio.HealthServicer
    services: tuple[str, ...]
    state: State


def _options(settings: ServerSettings) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", MESSAGE_LIMIT),
        ("grpc.max_send_message_length", MESSAGE_LIMIT),
        ("grpc.max_connection_age_ms", settings.max_connection_age_s * 1000),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        # A client that reads fast measures its bandwidth by pings of its own; as strikes they ended busy streams.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a second server on the same port is a mistake, and is to be seen
    ]


def _is_traced(call: grpc.HandlerCallDetails) -> bool:
    """Probes and reflection are not: nobody asks what became of them."""
    return call.method.lstrip("/").partition("/")[0] not in EXEMPT_SERVICES


@contextlib.asynccontextmanager
async def serve(
    settings: ServerSettings, registrations: Sequence[Registration], state: State | None = None, now: Now | None = None
) -> AsyncIterator[Running]:
    """Serve until the block is left, then drain: not ready at once, calls under way get `drain_s` seconds. `now` is the clock that
    calls go by; the process's own without.

    Raises ContractError for a method without authorisation, RuntimeError when the address is taken.
    """
    names = tuple(r.service for r in registrations)
    state = state or State()
    verifier = Verifier(settings.jwks_path, settings.tier, settings.issuers)
    gate = Gate(
        settings.tier, declared(names), verifier, now, state.closed, state.incarnation, state.refusals, settings.places
    )
    tracing = aio_server_interceptor(filter_=_is_traced)  # type: ignore[no-untyped-call]
    server = grpc.aio.server(interceptors=[Sanitiser(settings.tier), tracing, gate], options=_options(settings))
    for registration in registrations:
        registration.add(registration.servicer, server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port(settings.listen)
    await server.start()
    running = Running(port, checks, names, state)
    await _report(running, health_pb2.HealthCheckResponse.SERVING)
    state.incarnation.changed = lambda: _report_ready(running)
    await _report_ready(running)
    log.info("%s serves on port %d", settings.tier, port)
    try:
        yield running
    finally:
        await drain(server, running, settings.drain_s)


async def _report(running: Running, status: Any) -> None:
    await running.health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    for name in ("", READINESS, *running.services):
        await running.health.set(name, status)


async def _report_ready(running: Running) -> None:
    """Not ready while erasures are to be replayed; whoever replays them calls it by its own address."""
    state, status = running.state, health_pb2.HealthCheckResponse
    ready = not state.draining and not state.incarnation.restoring
    await running.health.set(READINESS, status.SERVING if ready else status.NOT_SERVING)


async def drain(server: grpc.aio.Server, running: Running, grace_s: float) -> None:
    """Stop taking calls, let those under way end, then close."""
    running.state.draining = True
    await _report(running, health_pb2.HealthCheckResponse.NOT_SERVING)
    await server.stop(grace_s)
    log.info("drained")
