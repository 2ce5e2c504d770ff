"""Batches by one stream: each by itself, answered under its own key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.queue.tests.rows import batch_request, lease_request

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_queue.operations.side_by_side import UNREAD_MAX, side_by_side
from penguin_testkit.calling import TierClient

METHOD = "/penguin.queue.v1.QueueService/EnqueueStream"


async def stored(queue: TierClient, tenant: UUID, *batches: pb.EnqueueBatchRequest) -> dict[str, Any]:
    """The answers by the batches' request_ids."""
    stub = QueueServiceStub(queue.channel)
    call = stub.EnqueueStream(iter(batches), metadata=queue.authorization(METHOD, tenant), timeout=20)
    return {reply.request_id: reply async for reply in call}


async def test_batches_are_stored_each_under_its_key_and_once(
    queue: TierClient, stub: QueueServiceStub, tenant: UUID, kind: str
) -> None:
    batches = [batch_request(tenant, kind, *[b"{}"] * n) for n in range(1, 31)]
    first = await stored(queue, tenant, *batches)
    assert [first[b.request_id].stored.count for b in batches] == list(range(1, 31))
    again = await stored(queue, tenant, *batches[::-1])
    assert again == first
    alone = await queue.call(stub.EnqueueBatch, batches[7])
    assert alone == first[batches[7].request_id].stored
    leased = await queue.call(stub.LeaseJobs, lease_request(kind, max_jobs=1000))
    assert len(leased.jobs) == sum(range(1, 31))


async def test_another_body_under_the_same_key_is_refused(queue: TierClient, tenant: UUID, kind: str) -> None:
    batch = batch_request(tenant, kind)
    other = pb.EnqueueBatchRequest()
    other.CopyFrom(batch)
    other.rank = 7
    await stored(queue, tenant, batch)
    replies = await stored(queue, tenant, other)
    assert replies[batch.request_id].error.field == "request_id"


async def test_a_batch_that_is_refused_leaves_the_others(queue: TierClient, tenant: UUID, kind: str) -> None:
    right, wrong = batch_request(tenant, kind), batch_request(tenant, kind, b"[]")
    replies = await stored(queue, tenant, wrong, right)
    assert replies[right.request_id].stored.count == 2
    assert replies[wrong.request_id].error.field == "payloads[0]"


async def test_another_tenants_batch_ends_the_stream(queue: TierClient, tenant: UUID, kind: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stored(queue, tenant, batch_request(uuid4(), kind))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_no_more_are_worked_at_than_there_is_room_for_and_none_is_lost() -> None:
    working, most = 0, 0
    go = asyncio.Event()

    async def messages() -> AsyncIterator[int]:
        for n in range(20):
            yield n

    async def answer(n: int) -> int:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await go.wait()
        working -= 1
        return n

    asyncio.get_running_loop().call_later(0.1, go.set)
    assert sorted([n async for n in side_by_side(messages(), answer, 4)]) == list(range(20))
    assert most == 4


async def test_answers_that_nobody_reads_are_few_and_keep_none_from_being_worked_at() -> None:
    begun, working = 0, 0
    go = asyncio.Event()

    async def messages() -> AsyncIterator[int]:
        for n in range(1000):
            await asyncio.sleep(0)
            yield n

    async def answer(n: int) -> int:
        nonlocal begun, working
        begun += 1
        if n >= UNREAD_MAX // 2:
            working += 1
            await go.wait()
            working -= 1
        return n

    async def idle() -> None:
        for _ in range(5000):
            await asyncio.sleep(0)

    async with contextlib.aclosing(side_by_side(messages(), answer, 4)) as replies:
        first = await anext(replies)
        await idle()
        # Answers wait to be read, and as many are worked at as if there were none.
        assert (begun, working) == (UNREAD_MAX // 2 + 4, 4)
        go.set()
        await idle()
        assert begun == UNREAD_MAX
        assert sorted([first, *[n async for n in replies]]) == list(range(1000))


async def test_what_an_answer_raises_ends_them_all_and_nothing_is_left_running() -> None:
    ended: list[int] = []

    async def messages() -> AsyncIterator[int]:
        yield 1
        yield 2
        await asyncio.Event().wait()

    async def answer(n: int) -> int:
        try:
            if n == 2:
                raise ValueError("two")
            await asyncio.Event().wait()
        finally:
            ended.append(n)
        return n

    with pytest.raises(ValueError, match="two"):
        async for _ in side_by_side(messages(), answer, 4):
            pass
    assert sorted(ended) == [1, 2]
