"""How much there is to do, for whoever decides how many workers there are: a sum over the shared census, never a count of
its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from penguin_queue.operations.census import Census

# Between two looks of a stream (seconds): the census is not made oftener than once a second.
LOOK_S = 1.0


@dataclass(frozen=True)
class Watched:
    """Whose jobs are counted (those of some kinds, or of a queue, or all), how many a replica is for, and above how many
    there is to be one."""

    kinds: frozenset[str]
    queue: str
    target: int
    activation: int


class Scaling:
    """What there is to do now."""

    def __init__(self, census: Census) -> None:
        self._census = census

    async def load(self, watched: Watched) -> int:
        """Jobs that are ready or leased. Raises Unavailable while they cannot be counted anew."""
        counts = await self._census.latest()
        return sum(
            depth.ready + depth.leased
            for depth in counts.depths
            if (not watched.kinds or depth.kind in watched.kinds) and watched.queue in ("", depth.queue)
        )

    async def active(self, watched: Watched) -> bool:
        """Whether there is more to do than nobody need be there for."""
        return await self.load(watched) > watched.activation

    async def changes(self, watched: Watched) -> AsyncIterator[bool]:
        """Whether there is, at once and whenever it changes; without an end."""
        last = None
        while True:
            active = await self.active(watched)
            if active != last:
                yield active
                last = active
            await asyncio.sleep(LOOK_S)
