"""Batches: how many are on their way at once, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from libs.worker.tests.waiting import eventually

from penguin_worker.batching import MicroBatch


@contextlib.asynccontextmanager
async def batching(parallel: int) -> AsyncIterator[tuple[MicroBatch[int], list[list[int]], Callable[[], None]]]:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def flush(items: list[int]) -> None:
        batches.append(items)
        await gate.wait()

    yield MicroBatch(flush, size=10, delay_s=0.005, parallel=parallel), batches, gate.set


@pytest.mark.parametrize("parallel", [1, 3])
async def test_so_many_batches_are_on_their_way_at_once_and_no_more(parallel: int) -> None:
    async with batching(parallel) as (batch, batches, let_go):
        for n in range(45):
            batch.add(n)
        await asyncio.sleep(0.05)
        assert [len(items) for items in batches] == [10] * parallel
        assert not batch.idle
        let_go()
        await batch.drain()
        assert batch.idle
        assert sorted(n for items in batches for n in items) == list(range(45))
        batch.add(45)
        await eventually(lambda: batches[-1] == [45], 1)


async def test_what_is_added_as_a_batch_comes_back_is_not_left_behind() -> None:
    batches: list[list[int]] = []

    async def flush(items: list[int]) -> None:
        batches.append(items)
        if len(batches) == 1:
            # Heard after this task's end, and before anybody is told of it.
            asyncio.get_running_loop().call_soon(batch.add, 2)

    batch = MicroBatch(flush, delay_s=0.001)
    batch.add(1)
    await eventually(lambda: batches == [[1], [2]], 1)
    await eventually(lambda: batch.idle, 1)


async def test_a_single_item_leaves_after_a_moment_beside_a_batch_that_is_slow() -> None:
    async with batching(2) as (batch, batches, let_go):
        batch.add(1)
        await eventually(lambda: batches == [[1]], 1)
        batch.add(2)
        await eventually(lambda: batches == [[1], [2]], 1)
        batch.add(3)
        await asyncio.sleep(0.05)
        assert batches == [[1], [2]]
        let_go()
        await batch.drain()
        assert batches == [[1], [2], [3]]
