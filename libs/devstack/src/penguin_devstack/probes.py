"""Asks local servers whether they are ready. An answer that does not come in time is a no, never an error."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penguin_devstack.ports import LOOPBACK

_TIMEOUT_S = 2.0
READINESS = "readiness"


async def accepts_connections(port: int, timeout_s: float = _TIMEOUT_S) -> bool:
    """Whether something listens on the loopback port."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def serves_grpc(port: int, service: str = READINESS, timeout_s: float = _TIMEOUT_S) -> bool:
    """Whether the gRPC server on the port calls that health service SERVING."""
    # Cheap to ask first, and a refused channel would wait out its own back-off.
    if not await accepts_connections(port, timeout_s):
        return False
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
