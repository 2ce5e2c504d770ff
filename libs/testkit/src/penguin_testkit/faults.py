"""Breaks calls on a tier's channel as a test asks: refused before they leave, answered by nothing after they were carried out,
or held. Behind it stands a real tier or a fake one; it changes no reply."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

Code = grpc.StatusCode


@dataclass(frozen=True)
class Break:
    """One broken call. `acted`: the tier carries it out all the same. Without a code it hangs until its caller gives up."""

    code: grpc.StatusCode | None
    reason: str = ""
    acted: bool = False
    retry_after_s: float | None = None


class Faults(grpc.aio.UnaryUnaryClientInterceptor):
    """Scripts for methods by their short names, one break a call, in order; and all requests that were made."""

    def __init__(self) -> None:
        self._scripts: dict[str, deque[Break]] = defaultdict(deque)
        self.requests: dict[str, list[Any]] = defaultdict(list)

    def breaks(self, method: str, *breaks: Break) -> None:
        """Let the next calls of the method end like this."""
        self._scripts[method].extend(breaks)

    def heal(self) -> None:
        """Forget what was scripted."""
        self._scripts.clear()

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Break the call, or let it pass."""
        path = client_call_details.method
        name = (path.decode() if isinstance(path, bytes) else path).rsplit("/", 1)[-1]
        self.requests[name].append(request)
        script = self._scripts[name]
        if not script:
            return await continuation(client_call_details, request)
        broken = script.popleft()
        if broken.acted:
            call = await continuation(client_call_details, request)
            await call
        if broken.code is None:
            return await asyncio.Event().wait()
        raise refusal(broken.code, broken)


def refusal(code: grpc.StatusCode, broken: Break) -> grpc.aio.AioRpcError:
    """The error as a client of gRPC meets it."""
    status = status_pb2.Status(code=code.value[0], message="broken by a test")
    if broken.reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=broken.reason, domain="test"))
    if broken.retry_after_s is not None:
        delay = error_details_pb2.RetryInfo()
        delay.retry_delay.FromMilliseconds(int(broken.retry_after_s * 1000))
        status.details.add().Pack(delay)
    wire = rpc_status.to_status(status)
    trailing = grpc.aio.Metadata(*wire.trailing_metadata) if broken.reason else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, "broken by a test")
