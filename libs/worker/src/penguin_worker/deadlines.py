"""Time-outs of one length, with one timer for them all."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Limited(Protocol):
    """What has so much time."""

    def expire(self) -> None:
        """Called once, on the event loop, when its time is up."""
        ...


class Deadlines:
    """Tells those that are still here after so many seconds. They come in the order in which they began."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        # Deadlines in monotonic seconds. As all have the same limit, the first that came is the first to expire.
        self._ends: dict[Limited, float] = {}
        self._looking = False

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, limited: Limited, began: float) -> None:
        """Its time runs from here on (monotonic seconds)."""
        self._ends[limited] = began + self._limit_s
        if not self._looking:
            self._look_at(began + self._limit_s)

    def discard(self, limited: Limited) -> None:
        """It has ended."""
        # The timer stays: the next one needs it, and without one it finds nothing.
        self._ends.pop(limited, None)

    def _look_at(self, ends: float) -> None:
        self._looking = True
        asyncio.get_running_loop().call_later(max(0.0, ends - time.monotonic()), self._look)

    def _look(self) -> None:
        now = time.monotonic()
        self._looking = False
        while self._ends:
            first, ends = next(iter(self._ends.items()))
            if ends > now:
                self._look_at(ends)
                return
            del self._ends[first]
            first.expire()
