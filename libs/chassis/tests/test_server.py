"""The server as an operator sees it: health, reflection, and its end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from libs.chassis.tests.probe import Probe, probing
from libs.chassis.tests.test_gate import settled

from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis.server import serve
from penguin_chassis.settings import ServerSettings
from penguin_testkit.calling import TierClient
from penguin_testkit.tokens import TokenFactory

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(channel: grpc.aio.Channel, service: str) -> Any:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return reply.status


async def test_health_is_told_to_anyone_for_each_service(probe: Probe) -> None:
    names = ("", "liveness", "readiness", "penguin.oltp.v1.EmailService", "penguin.content.v1.ContentService")
    assert [await check(probe.client.channel, name) for name in names] == [SERVING] * 5
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(probe.client.channel, "no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_every_service_to_anyone(oltp_status: TierClient) -> None:
    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="penguin.oltp.v1.EmailService")

    stub = reflection_pb2_grpc.ServerReflectionStub(oltp_status.channel)
    listed, described = [reply async for reply in stub.ServerReflectionInfo(ask(), timeout=5)]
    names = {service.name for service in listed.list_services_response.service}
    assert {"penguin.tier.v1.TierService", "penguin.oltp.v1.EmailService", "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_a_second_server_on_the_same_port_is_a_mistake(probe: Probe, tokens: TokenFactory) -> None:
    settings = ServerSettings("oltp", f"127.0.0.1:{probe.running.port}", tokens.jwks_path)
    with pytest.raises(RuntimeError):
        async with serve(settings, []):
            pytest.fail("two of them")


async def test_draining_says_so_at_once_lets_calls_end_and_takes_no_new_ones(
    tokens: TokenFactory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, gate = asyncio.Event(), asyncio.Event()

    async def act(request: Any, context: Any) -> pb.GetEmailResponse:
        inside.set()
        await gate.wait()
        return pb.GetEmailResponse(email=pb.Email(id="finished"))

    request = pb.GetEmailRequest(tenant_id=str(tenant), email_id=str(uuid4()))
    async with contextlib.AsyncExitStack() as stack:
        probe = await stack.enter_async_context(probing(tokens, monkeypatch, drain_s=5))
        probe.emails.act = act
        watch = health_pb2_grpc.HealthStub(probe.client.channel).Watch(
            health_pb2.HealthCheckRequest(service="readiness"), timeout=20
        )
        assert (await watch.read()).status == SERVING
        under_way = asyncio.create_task(probe.client.call(probe.stub.GetEmail, request))
        await inside.wait()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{probe.running.port}") as another:
            leaving = asyncio.create_task(probe.drain())
            started = time.monotonic()
            assert (await watch.read()).status == NOT_SERVING
            assert time.monotonic() - started < 0.5
            assert probe.running.state.draining
            await asyncio.sleep(0.1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(another, "readiness")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.set()
        assert (await under_way).email.id == "finished"
        watch.cancel()
        await asyncio.wait_for(leaving, 6)


async def test_what_outlasts_the_drain_is_cut_short(
    tokens: TokenFactory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    async def act(request: Any, context: Any) -> pb.GetEmailResponse:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cut short")
        return pb.GetEmailResponse()

    request = pb.GetEmailRequest(tenant_id=str(tenant), email_id=str(uuid4()))
    async with probing(tokens, monkeypatch, drain_s=0.2) as probe:
        probe.emails.act = act
        call = asyncio.create_task(probe.client.call(probe.stub.GetEmail, request, timeout=30))
        await settled(lambda: probe.in_flight == 1)
        started = time.monotonic()
        await probe.drain()
        assert time.monotonic() - started < 2
        with pytest.raises(Exception, match=r"UNAVAILABLE|CANCELLED"):
            await call
        await settled(lambda: ended == ["cut short"] and probe.in_flight == 0)
