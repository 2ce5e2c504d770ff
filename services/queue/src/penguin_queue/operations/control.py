"""The tenant's word on its jobs: what the store did is told to those who wait for jobs."""

from __future__ import annotations

from collections.abc import Sequence

from penguin_chassis.barrier import Step
from penguin_queue.store.control import Cancelled, ControlStore


class Control:
    """What tenants do to their jobs."""

    def __init__(self, store: ControlStore) -> None:
        self._store = store

    async def cancel(self, step: Step, ids: Sequence[int]) -> Cancelled:
        """End jobs that wait, mark those that are leased. Hints that stand in the buffer for them are dropped there."""
        return await self._store.cancel(step, ids)
