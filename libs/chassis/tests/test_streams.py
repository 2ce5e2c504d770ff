"""Streams: counted apart, ended in good order, freed when their client leaves, every message held against the token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from libs.chassis.tests.probe import Probe, probing
from libs.chassis.tests.test_gate import download, get, settled

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin_chassis import interceptors
from penguin_testkit.calling import answer_of
from penguin_testkit.tokens import TokenFactory


async def test_a_stream_that_its_client_leaves_frees_everything(probe: Probe, tenant: UUID) -> None:
    ended: list[str] = []

    async def down(request: Any, context: Any) -> AsyncIterator[content_pb.DownloadRawResponse]:
        try:
            while True:
                yield content_pb.DownloadRawResponse(chunk=b"x" * 100_000)
        finally:
            ended.append("closed")

    probe.contents.down = down
    call = download(probe, tenant)
    await call.read()
    await asyncio.sleep(0.1)  # the sender stands still: its client reads no more
    assert probe.in_flight == 1
    call.cancel()
    await settled(lambda: probe.in_flight == 0 and ended == ["closed"])
    assert probe.in_flight == 0


async def test_streams_and_calls_are_counted_apart(probe: Probe, tenant: UUID) -> None:
    async def down(request: Any, context: Any) -> AsyncIterator[content_pb.DownloadRawResponse]:
        yield content_pb.DownloadRawResponse()
        await asyncio.sleep(30)

    probe.contents.down = down
    streams = [download(probe, tenant) for _ in range(100)]
    await asyncio.gather(*(stream.read() for stream in streams))
    await probe.client.call(probe.stub.GetEmail, get(tenant))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await download(probe, tenant).read()
    assert answer_of(caught.value).reason == "TENANT_QUOTA"
    for stream in streams:
        stream.cancel()
    await settled(lambda: probe.in_flight == 0, within_s=5)


async def test_a_stream_ends_in_good_order_when_its_lifetime_is_over(
    tokens: TokenFactory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    async def down(request: Any, context: Any) -> AsyncIterator[content_pb.DownloadRawResponse]:
        try:
            yield content_pb.DownloadRawResponse(chunk=b"first")
            await asyncio.sleep(30)
        finally:
            closed.append(True)

    async with probing(tokens, monkeypatch, lifetime_s=1) as probe:
        probe.contents.down = down
        started = time.monotonic()
        assert [reply.chunk async for reply in download(probe, tenant)] == [b"first"]
        assert 0.9 < time.monotonic() - started < 3
        assert closed == [True]
        assert probe.in_flight == 0


async def test_a_stream_whose_client_does_not_read_ends_with_its_lifetime(
    tokens: TokenFactory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "READ_S", 0.1)
    ended: list[str] = []

    async def down(request: Any, context: Any) -> AsyncIterator[content_pb.DownloadRawResponse]:
        try:
            while True:
                yield content_pb.DownloadRawResponse(chunk=b"x" * 100_000)
        finally:
            ended.append("closed")

    async with probing(tokens, monkeypatch, lifetime_s=1) as probe:
        probe.contents.down = down
        call = download(probe, tenant)
        await call.read()
        await settled(lambda: probe.in_flight == 0 and ended == ["closed"], within_s=5)
        # Should it read after all, it is told so behind what had been sent.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await all_of(call)
        assert answer_of(caught.value).reason == "DEADLINE"


async def all_of(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_stream_that_always_has_a_reply_ends_in_good_order_too(
    tokens: TokenFactory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(request: Any, context: Any) -> AsyncIterator[content_pb.DownloadRawResponse]:
        while True:
            yield content_pb.DownloadRawResponse(chunk=b"x")

    async with probing(tokens, monkeypatch, lifetime_s=1) as probe:
        probe.contents.down = down
        async with asyncio.timeout(10):
            assert {reply.chunk async for reply in download(probe, tenant)} == {b"x"}
        assert probe.in_flight == 0


async def test_an_upload_ends_with_its_lifetime_too(
    tokens: TokenFactory, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def up(messages: AsyncIterator[content_pb.UploadBlobRequest], context: Any) -> Any:
        async for _ in messages:
            pass

    async def endless() -> AsyncIterator[content_pb.UploadBlobRequest]:
        start = content_pb.UploadBlobStart(tenant_id=str(tenant), request_id=str(uuid4()), sha256="0" * 64, size=1)
        start.claim_by.GetCurrentTime()
        yield content_pb.UploadBlobRequest(start=start)
        await asyncio.sleep(30)

    async with probing(tokens, monkeypatch, lifetime_s=1) as probe:
        probe.contents.up = up
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await upload(probe, tenant, endless())
        assert answer_of(caught.value).reason == "DEADLINE"
        await settled(lambda: probe.in_flight == 0)


async def upload(probe: Probe, tenant: UUID, messages: AsyncIterator[content_pb.UploadBlobRequest]) -> Any:
    path = "/penguin.content.v1.ContentService/UploadBlob"
    return await probe.streams.UploadBlob(messages, metadata=probe.client.authorization(path, tenant), timeout=10)


async def test_every_message_of_an_upload_is_held_against_the_token(probe: Probe, tenant: UUID) -> None:
    received: list[str] = []

    async def up(messages: AsyncIterator[content_pb.UploadBlobRequest], context: Any) -> Any:
        received.extend([str(message.WhichOneof("part")) async for message in messages])
        return content_pb.UploadBlobResponse()

    def start(whose: UUID) -> content_pb.UploadBlobRequest:
        opening = content_pb.UploadBlobStart(tenant_id=str(whose), request_id=str(uuid4()), sha256="0" * 64, size=1)
        opening.claim_by.GetCurrentTime()
        return content_pb.UploadBlobRequest(start=opening)

    async def sneaking() -> AsyncIterator[content_pb.UploadBlobRequest]:
        yield start(tenant)
        yield content_pb.UploadBlobRequest(chunk=b"1")
        yield start(uuid4())

    async def empty() -> AsyncIterator[content_pb.UploadBlobRequest]:
        yield content_pb.UploadBlobRequest()

    probe.contents.up = up
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(probe, tenant, sneaking())
    assert answer_of(caught.value).reason == "TENANT_MISMATCH"
    assert not received
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(probe, tenant, empty())
    assert answer_of(caught.value).fields == ["part"]


async def test_every_message_of_a_tenants_stream_waits_for_its_turn(
    probe: Probe, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[UUID] = []

    async def turn(key: UUID, timeout_s: float) -> None:
        turns.append(key)

    async def up(messages: AsyncIterator[content_pb.UploadBlobRequest], context: Any) -> Any:
        assert [len(turns) async for _ in messages] == [1, 2, 3]
        return content_pb.UploadBlobResponse()

    async def three() -> AsyncIterator[content_pb.UploadBlobRequest]:
        for _ in range(3):
            yield content_pb.UploadBlobRequest(chunk=b"1")

    monkeypatch.setattr(probe.gate._admission, "turn", turn)
    probe.contents.up = up
    await upload(probe, tenant, three())
    assert turns == [tenant] * 3
