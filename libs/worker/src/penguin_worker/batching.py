"""Gathers single items into batches: the slower the receiver, the larger they become."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SIZE = 100
DELAY_S = 0.025


class MicroBatch(Generic[T]):
    """Hands items to `flush` in batches, `parallel` of them at a time; `flush` must not raise.

    A batch leaves a moment after its first item came, or when it is full, or when one before it has come back. It sets no
    limit of its own: whoever adds holds a bounded number of items until they are flushed.
    """

    def __init__(
        self,
        flush: Callable[[list[T]], Awaitable[None]],
        *,
        size: int = SIZE,
        delay_s: float = DELAY_S,
        parallel: int = 1,
    ) -> None:
        self._flush = flush
        self._parallel = parallel
        self._size = size
        self._delay_s = delay_s
        self._items: list[T] = []
        self._hurry = asyncio.Event()
        # Tasks that gather or flush; one of them gathers at a time.
        self._running: set[asyncio.Task[None]] = set()
        self._gathering = False

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or on its way."""
        return not self._running

    def add(self, item: T) -> None:
        """Put an item into the next batch."""
        self._items.append(item)
        if len(self._items) >= self._size:
            self._hurry.set()
        if not self._gathering:
            self._gather()

    async def drain(self) -> None:
        """Send what is waiting, and wait until all of it has been flushed."""
        self._hurry.set()
        while self._running:
            await asyncio.wait(self._running)

    def cancel(self) -> None:
        """Give up what is waiting and what is on its way."""
        self._items.clear()
        self._gathering = False
        for task in self._running:
            task.cancel()

    def _gather(self) -> None:
        if len(self._running) < self._parallel:
            self._gathering = True
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        try:
            await self._gathered()
        finally:
            # Here, and not only when its end is told: what is added in between is to find a place.
            self._running.difference_update([asyncio.current_task()])

    async def _gathered(self) -> None:
        while self._items:
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), self._delay_s)
            finally:
                self._gathering = False
            items, self._items = self._items[: self._size], self._items[self._size :]
            if len(self._items) < self._size:
                self._hurry.clear()
            if self._items:
                self._gather()
            await self._flush(items)
            if self._gathering:
                # Another one has what has come meanwhile.
                return
            self._gathering = True
        self._gathering = False
