"""Answers the messages of one stream side by side, each as it comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

# Messages of one stream that are begun, and whose answers its client has not read: then no further one is read. Many more than are
# worked at, so that whoever reads is not waited for.
UNREAD_MAX = 64

M = TypeVar("M")
A = TypeVar("A")


async def side_by_side(messages: AsyncIterator[M], answer: Callable[[M], Awaitable[A]], most: int) -> AsyncGenerator[A]:
    """The answers, at most `most` of them being worked at; further messages are not read meanwhile, nor while UNREAD_MAX are not
    asked for. What an answer or the messages raise ends them all."""
    answers: asyncio.Queue[A | Exception | None] = asyncio.Queue()
    room, unread = asyncio.Semaphore(most), asyncio.Semaphore(UNREAD_MAX)
    working: set[asyncio.Task[None]] = set()

    async def work(message: M) -> None:
        try:
            answers.put_nowait(await answer(message))
        except Exception as error:  # noqa: BLE001 - raised where the stream is answered
            answers.put_nowait(error)
        finally:
            room.release()

    async def read() -> None:
        try:
            async for message in messages:
                await unread.acquire()
                await room.acquire()
                task = asyncio.create_task(work(message))
                working.add(task)
                task.add_done_callback(working.discard)
            await asyncio.gather(*working)
        except Exception as error:  # noqa: BLE001 - as above
            answers.put_nowait(error)
        answers.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (each := await answers.get()) is not None:
            if isinstance(each, Exception):
                raise each
            yield each
            # Only now gRPC has sent it off.
            unread.release()
    finally:
        for task in (reading, *working):
            task.cancel()
        await asyncio.gather(reading, *working, return_exceptions=True)
