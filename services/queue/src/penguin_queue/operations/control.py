"""The tenant's word on its jobs: what the store did is told to those who wait for jobs."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from penguin_chassis.barrier import Step
from penguin_queue.domain.jobs import DeadFilter, Preview, PurgeFilter
from penguin_queue.operations.announcing import Announcer
from penguin_queue.store.control import SAMPLE, Cancelled, ControlStore, Purged, Redriven


class Control:
    """What tenants do to their jobs."""

    def __init__(self, store: ControlStore, announcer: Announcer) -> None:
        self._store = store
        self._announcer = announcer

    async def cancel(self, step: Step, ids: Sequence[int]) -> Cancelled:
        """End jobs that wait, mark those that are leased."""
        done = await self._store.cancel(step, ids)
        self._announcer.hurry()
        return done

    async def redrive(self, step: Step, ids: Sequence[int]) -> list[int]:
        """Make dead letters ready again; returns their ids."""
        done, risen = await self._store.redrive(step, ids)
        self._announcer.tell(risen, step.at)
        return done

    async def redrive_matching(self, step: Step, chosen: DeadFilter, limit: int) -> Redriven:
        """Make dead letters that match ready again."""
        done, risen = await self._store.redrive_matching(step, chosen, limit)
        self._announcer.tell(risen, step.at)
        return done

    async def redrivable(self, tenant_id: UUID, chosen: DeadFilter, limit: int) -> Preview:
        """What redrive_matching would do."""
        return await self._store.redrivable(tenant_id, chosen, limit)

    async def dead_among(self, tenant_id: UUID, ids: Sequence[int]) -> tuple[Preview, set[int]]:
        """What redriving these ids would do, and which of them it would pass over."""
        found = await self._store.dead_among(tenant_id, ids)
        return Preview(len(found), found[:SAMPLE], 0), set(ids).difference(found)

    async def purge(self, step: Step, chosen: PurgeFilter, limit: int) -> Purged:
        """Remove jobs that match."""
        done = await self._store.purge(step, chosen, limit)
        self._announcer.hurry()
        return done

    async def purgeable(self, tenant_id: UUID, chosen: PurgeFilter, limit: int) -> tuple[list[int], bool]:
        """Ids of the jobs that purge would remove, and whether there are more."""
        return await self._store.purgeable(tenant_id, chosen, limit)

    async def set_priority(self, step: Step, ids: Sequence[int], priority: int, rank: int | None) -> list[int]:
        """Give jobs that wait another place in the order; returns their ids."""
        changed, waiting = await self._store.set_priority(step, ids, priority, rank)
        self._announcer.tell(waiting, step.at)
        return changed
