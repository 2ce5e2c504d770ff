"""Where calls end: the tiers' own interceptors and servicers, without gRPC between them and whoever brings a call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

import grpc
from grpc import StatusCode as Code

from penguin_chassis.calls import Caller
from penguin_chassis.clock import Now
from penguin_chassis.interceptors import Gate, Sanitiser
from penguin_chassis.methods import MethodInfo, declared
from penguin_chassis.server import Registration, State

# Databases keep real time: none of it may run out because a machine is slow (seconds).
LATE_S = 20.0


class Tokens:
    """Tokens that say in plain words whom they stand for."""

    async def tenant_token(self, tier: str, tenant_id: UUID, scope: str) -> str:
        """For one tenant."""
        return f"tenant {tenant_id} {scope}"

    async def platform_token(self, tier: str, method: str, scope: str) -> str:
        """For one platform method."""
        return f"platform {method} {scope}"


class _Verifier:
    """Believes them."""

    def caller(self, authorization: str | None) -> Caller:
        kind, who, scope = (authorization or "").removeprefix("Bearer ").split(" ")
        if kind == "tenant":
            return Caller("simulated", UUID(who), frozenset({scope}))
        return Caller("simulated", None, frozenset({scope}), platform=True, methods=frozenset({who}))


class ServerContext:
    """A call as its servicer has it."""

    def __init__(self, metadata: Sequence[tuple[str, str]], ends: float, now: Callable[[], float]) -> None:
        self._metadata = metadata
        self._ends = ends
        self._now = now
        self.error: grpc.aio.AioRpcError | None = None

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self._metadata

    def time_remaining(self) -> float:
        # A tier does not know how late a call was on its way: what it does then is late, and done all the same.
        return max(LATE_S, self._ends - self._now())

    async def send_initial_metadata(self, _: Any) -> None:
        return None

    async def abort(self, code: Code, details: str = "", trailing: Any = ()) -> None:
        self.error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)
        raise grpc.aio.AbortError


class Server:
    """A tier's methods behind its interceptors."""

    def __init__(self, tier: str, registrations: Sequence[Registration], state: State, now: Now | None) -> None:
        self.tier = tier
        self._handlers: dict[str, Any] = {}
        for registration in registrations:
            registration.add(registration.servicer, self)  # type: ignore[arg-type] # all of a server that it needs
        methods = _declared(tuple(r.service for r in registrations))
        gate = Gate(tier, methods, _Verifier(), now, state.closed, refusals=state.refusals)  # type: ignore[arg-type]
        self._around = (gate, Sanitiser(tier))

    def add_generic_rpc_handlers(self, _: Any) -> None:
        """Part of what a server is to generated code."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The methods of a service."""
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def handle(self, path: str, request: Any, context: ServerContext) -> Any:
        """Answer a call; streams in and out are lists. Raises AioRpcError."""
        handler = self._handlers[path]
        read = handler.request_deserializer
        for interceptor in self._around:
            handler = await interceptor.intercept_service(_given(handler), _Details(path))
        try:
            if handler.unary_unary:
                return await handler.unary_unary(read(request), context)
            if handler.stream_unary:
                return await handler.stream_unary(_each(request, read), context)
            return [reply async for reply in handler.unary_stream(read(request), context)]
        except grpc.aio.AbortError:
            assert context.error is not None
            raise context.error from None


@cache
def _declared(services: tuple[str, ...]) -> dict[str, MethodInfo]:
    # Tiers are begun anew with every history; their contract stays.
    return declared(services)


@dataclass(frozen=True)
class _Details:
    method: str


def _given(handler: Any) -> Callable[[Any], Awaitable[Any]]:
    async def continuation(_: Any) -> Any:
        return handler

    return continuation


async def _each(requests: Sequence[bytes], read: Any) -> AsyncIterator[Any]:
    for request in requests:
        yield read(request)
