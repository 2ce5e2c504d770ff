"""Calls tiers: one channel each, with retries, tokens, tracing and errors in one place.

Every call has a deadline. A token and a traceparent go with each; a refusal comes back as TierError.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import grpc
from google.protobuf.descriptor_pool import Default
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penguin.common.v1 import options_pb2
from penguin_orchestrator.errors import NO_TOKEN, TierError, tier_error
from penguin_orchestrator.tokens import TokenError, TokenSource

T = TypeVar("T")

MESSAGE_LIMIT = 4 * 1024 * 1024
DEADLINE_S = 10.0
RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0

# Pivots: whoever calls them tries again, and keeps account of every try.
TRIED_ONCE = (("penguin.oltp.v1.EmailService", "BatchCreateEmails"),)
SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            },
            # A try whose outcome is unknown must not be hidden by a later one that never left.
            {"name": [{"service": service, "method": method} for service, method in TRIED_ONCE]},
        ],
        # Without it a dead tier receives every call four times.
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
    }
)
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_ONCE = frozenset(f"/{service}/{method}" for service, method in TRIED_ONCE)
_tracer = trace.get_tracer("penguin.orchestrator")
_propagator = TraceContextTextMapPropagator()


@cache
def _rule(path: str) -> tuple[str, bool]:
    """The scope a method asks for, and whether it is a platform method."""
    service, name = path.lstrip("/").split("/")
    options = Default().FindServiceByName(service).methods_by_name[name].GetOptions()
    rule = options.Extensions[options_pb2.authorization]
    return rule.scope, rule.platform


class Tier:
    """One tier as a caller has it."""

    def __init__(self, name: str, channel: grpc.aio.Channel, tokens: TokenSource, address: str = "") -> None:
        self.name = name
        self.channel = channel
        # For who needs a channel of its own, as a thread does.
        self.address = address
        self._tokens = tokens
        self._stubs: dict[Any, Any] = {}

    def stub(self, kind: Callable[[grpc.aio.Channel], T]) -> T:
        """The stub of one of its services, made once."""
        if kind not in self._stubs:
            self._stubs[kind] = kind(self.channel)
        found: T = self._stubs[kind]
        return found

    async def _metadata(self, path: str, tenant_id: UUID | None) -> list[tuple[str, str]]:
        scope, platform = _rule(path)
        try:
            if platform or tenant_id is None:
                token = await self._tokens.platform_token(self.name, path, scope)
            else:
                token = await self._tokens.tenant_token(self.name, tenant_id, scope)
        except TokenError as error:
            # Without a token nothing was sent: the same call may be made again.
            raise TierError(self.name, grpc.StatusCode.UNAVAILABLE, NO_TOKEN, str(error)) from None
        metadata = {"authorization": f"Bearer {token}"}
        _propagator.inject(metadata)
        return list(metadata.items())

    async def platform_metadata(self, method: Any) -> list[tuple[str, str]]:
        """What goes with a call of a platform method over a channel of the caller's own; raises TierError."""
        return await self._metadata(method._method.decode(), None)  # noqa: SLF001 - as below

    async def call(
        self, method: Any, request: Any, *, timeout: float = DEADLINE_S, attributes: Mapping[str, str] | None = None,
        as_platform: bool = False,
    ) -> Any:  # fmt: skip
        """Call a unary method once (the channel retries UNAVAILABLE); raises TierError.

        The tenant is the request's; `timeout` in seconds covers everything, the token included. `as_platform`: by a platform
        token that names the method, also where a tenant's would do.
        """
        path: str = method._method.decode()  # noqa: SLF001 - a stub's method tells its path nowhere else
        tenant = "" if as_platform else getattr(request, "tenant_id", "")
        with _span(path, self.name, attributes) as span:
            try:
                async with asyncio.timeout(timeout):
                    metadata = await self._metadata(path, UUID(tenant) if tenant else None)
                    return await method(request, metadata=metadata, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                failure = tier_error(self.name, error, tried_once=path in _ONCE)
            except TimeoutError:
                failure = TierError(self.name, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE", "No answer in time.")
            span.set_status(StatusCode.ERROR, failure.reason)
            raise failure

    async def insist(
        self,
        method: Any,
        request: Any,
        *,
        deadline_s: float,
        timeout: float = DEADLINE_S,
        attributes: Mapping[str, str] | None = None,
        as_platform: bool = False,
        over_rotation: bool = False,
    ) -> Any:
        """Call until the outcome is known or `deadline_s` seconds have passed; the request carries its own request_ids.
        `over_rotation`: also while the token is refused.

        Raises the last TierError: where its outcome is unknown, or that of any try before it, the act may have been done.
        """
        ends = time.monotonic() + deadline_s
        delay = RETRY_MIN_S
        unknown = False
        while True:
            left = ends - time.monotonic()
            try:
                within = max(0.05, min(timeout, left))
                return await self.call(method, request, timeout=within, attributes=attributes, as_platform=as_platform)
            except TierError as error:
                unknown = error.earlier_unknown = unknown or error.outcome_unknown
                wait = max(error.retry_after_s or 0.0, delay * random.uniform(0.5, 1.0))
                again = error.retryable or (over_rotation and error.of_token)
                if not again or time.monotonic() + wait >= ends:
                    raise
            await asyncio.sleep(wait)
            delay = min(delay * 2, RETRY_MAX_S)

    async def stream(self, method: Any, request: Any, *, timeout: float) -> AsyncIterator[Any]:
        """The replies of a server stream; raises TierError."""
        path: str = method._method.decode()  # noqa: SLF001 - as above
        tenant = getattr(request, "tenant_id", "")
        metadata = await self._metadata(path, UUID(tenant) if tenant else None)
        try:
            async for reply in method(request, metadata=metadata, timeout=timeout):
                yield reply
        except grpc.aio.AioRpcError as error:
            raise tier_error(self.name, error) from None

    @contextlib.asynccontextmanager
    async def conversation(self, method: Any, *, timeout: float, tenant_id: UUID | None = None) -> AsyncIterator[Any]:
        """A stream of both directions, of a tenant or of a platform method, open once the tier has let us in, and cancelled
        on leaving.

        Raises TierError, for what fails inside as well.
        """
        path: str = method._method.decode()  # noqa: SLF001 - as above
        call = method(metadata=await self._metadata(path, tenant_id), timeout=timeout)
        try:
            # What is written before that may be lost, and the reason of a refusal with it.
            await call.initial_metadata()
            yield call
        except grpc.aio.AioRpcError as error:
            raise tier_error(self.name, error) from None
        finally:
            call.cancel()

    async def send_stream(
        self, method: Any, requests: AsyncIterator[Any], tenant_id: UUID | None, *, timeout: float
    ) -> Any:
        """The reply to a client stream, of a tenant or by a platform token; raises TierError."""
        path: str = method._method.decode()  # noqa: SLF001 - as above
        metadata = await self._metadata(path, tenant_id)
        try:
            return await method(requests, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise tier_error(self.name, error) from None


@contextlib.contextmanager
def _span(path: str, tier: str, attributes: Mapping[str, str] | None) -> Any:
    with _tracer.start_as_current_span(path.lstrip("/"), kind=SpanKind.CLIENT, record_exception=False) as span:
        if span.is_recording():
            span.set_attribute("penguin.tier", tier)
            for key, value in (attributes or {}).items():
                span.set_attribute(key, value)
        yield span


@contextlib.asynccontextmanager
async def connect(addresses: Mapping[str, str], tokens: TokenSource) -> AsyncIterator[dict[str, Tier]]:
    """Channels to these tiers, closed on leaving. Connects on first use: a tier may be down."""
    async with contextlib.AsyncExitStack() as stack:
        tiers: dict[str, Tier] = {}
        for name, address in addresses.items():
            channel = grpc.aio.insecure_channel(address, options=OPTIONS)
            stack.push_async_callback(channel.close, None)
            tiers[name] = Tier(name, channel, tokens, address)
        yield tiers
