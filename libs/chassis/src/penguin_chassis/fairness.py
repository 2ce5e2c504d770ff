"""Shares a pool's connections between tenants: who holds the fewest is served next, and nobody can hold them all.

It opens no connection and knows no database; it says who may ask for one now.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict, deque
from uuid import UUID

Key = UUID | None
# The least part of the time it may take that anybody waits for.
LEAST = 0.6
# When who found no place is to ask again (seconds).
AGAIN_MIN_S, AGAIN_MAX_S = 0.2, 1.0


def again_s() -> float:
    """In how many seconds who found no place is to ask again: not all at one moment."""
    return random.uniform(AGAIN_MIN_S, AGAIN_MAX_S)


class FairPlaces:
    """A fixed number of places. Those who wait are served by how few places their tenant holds, then in their order.

    A quarter of the places is out of reach of any single tenant (`None`, which stands for no tenant, may hold all).
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._most = max(1, places - places // 4)
        self._held: Counter[Key] = Counter()
        self._waiting: OrderedDict[Key, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(map(len, self._waiting.values()))

    async def enter(self, key: Key, timeout_s: float) -> None:
        """Take a place; raises TimeoutError when there is none within `timeout_s` seconds, or some less: those who came together are
        not to be refused together, and felt by everybody else."""
        if self._free > 0 and key not in self._waiting and self._may_hold_more(key):
            self._take(key)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            async with asyncio.timeout(timeout_s * random.uniform(LEAST, 1.0)):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave(key)  # the place came at the very moment we gave up
            else:
                self._forget(key, turn)
            raise

    def leave(self, key: Key) -> None:
        """Give a place back, to whoever is next."""
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        self._free += 1
        self._serve()

    def _may_hold_more(self, key: Key) -> bool:
        return key is None or self._held[key] < self._most

    def _take(self, key: Key) -> None:
        self._free -= 1
        self._held[key] += 1

    def _serve(self) -> None:
        while self._free > 0:
            eligible = [key for key in self._waiting if self._may_hold_more(key)]
            if not eligible:
                return
            key = min(eligible, key=lambda each: self._held[each])
            line = self._waiting[key]
            turn = line.popleft()
            if line:
                self._waiting.move_to_end(key)
            else:
                del self._waiting[key]
            if not turn.done():
                self._take(key)
                turn.set_result(None)

    def _forget(self, key: Key, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(key)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[key]
        self._serve()
