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
    """Hands items to `flush` in batches, one at a time; `flush` must not raise.

    A batch leaves a moment after its first item came, or when the one before it has come back. It sets no limit of its
    own: whoever adds holds a bounded number of items until they are flushed.
    """

    def __init__(
        self, flush: Callable[[list[T]], Awaitable[None]], *, size: int = SIZE, delay_s: float = DELAY_S
    ) -> None:
        self._flush = flush
        self._size = size
        self._delay_s = delay_s
        self._items: list[T] = []
        self._hurry = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or on its way."""
        return self._flushing is None

    def add(self, item: T) -> None:
        """Put an item into the next batch."""
        self._items.append(item)
        if len(self._items) >= self._size:
            self._hurry.set()
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._run())

    async def drain(self) -> None:
        """Send what is waiting, and wait until all of it has been flushed."""
        self._hurry.set()
        while self._flushing is not None:
            await asyncio.wait([self._flushing])

    def cancel(self) -> None:
        """Give up what is waiting and what is on its way."""
        self._items.clear()
        if self._flushing is not None:
            self._flushing.cancel()

    async def _run(self) -> None:
        try:
            while self._items:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), self._delay_s)
                items, self._items = self._items[: self._size], self._items[self._size :]
                if len(self._items) < self._size:
                    self._hurry.clear()
                await self._flush(items)
        finally:
            self._flushing = None
