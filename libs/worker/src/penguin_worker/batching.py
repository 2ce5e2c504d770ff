"""Gathers single items into batches: a batch leaves when it is full or a moment after its first item came."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SIZE = 100
DELAY_S = 0.01


class MicroBatch(Generic[T]):
    """Hands items to `flush` in batches; flushes may overlap, and `flush` must not raise.

    It sets no limit of its own: whoever adds holds a bounded number of items until they are flushed.
    """

    def __init__(
        self, flush: Callable[[list[T]], Awaitable[None]], *, size: int = SIZE, delay_s: float = DELAY_S
    ) -> None:
        self._flush = flush
        self._size = size
        self._delay_s = delay_s
        self._items: list[T] = []
        self._timer: asyncio.TimerHandle | None = None
        self._flushes: set[asyncio.Task[None]] = set()

    def add(self, item: T) -> None:
        """Put an item into the next batch."""
        self._items.append(item)
        if len(self._items) >= self._size:
            self._send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._send)

    async def drain(self) -> None:
        """Send what is waiting, and wait until all of it has been flushed."""
        self._send()
        while self._flushes:
            await asyncio.wait(self._flushes)

    def cancel(self) -> None:
        """Give up what is on its way."""
        for task in self._flushes:
            task.cancel()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._items:
            return
        items, self._items = self._items, []
        task = asyncio.create_task(self._run(items))
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)

    async def _run(self, items: list[T]) -> None:
        await self._flush(items)
