"""Jobs that were leased to somebody who never got them go back, as if they had not been leased."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Sequence

from penguin_chassis.clock import Now
from penguin_chassis.faults import Fault
from penguin_queue.domain.jobs import Job, LeaseRef, Lot
from penguin_queue.operations.announcing import Announcer
from penguin_queue.store.leases import LeaseStore


class Returning:
    """What goes back beside the calls that leased it."""

    def __init__(self, store: LeaseStore, announcer: Announcer, now: Now) -> None:
        self._store = store
        self._announcer = announcer
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()

    def give_back(self, leases: Iterable[LeaseRef], again_s: Sequence[float] = ()) -> None:
        """Make jobs ready again, some time soon: should that fail, their leases run out. Those that are not there are looked for
        again after these pauses (seconds)."""
        if not (refs := list(leases)):
            return
        # Not within the deadline of the call or stream that ended.
        task = asyncio.create_task(self._give_back(refs, again_s), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.contextmanager
    def unless_done(self, leased: Callable[[], Iterable[LeaseRef]]) -> Iterator[None]:
        """What was leased goes back should what is done inside raise: nobody is told of it then, and it is neither to wait for
        its leases' end nor to count them as lost."""
        try:
            yield
        except BaseException:
            self.give_back(leased())
            raise

    async def _give_back(self, refs: list[LeaseRef], again_s: Sequence[float]) -> None:
        for pause in (0.0, *again_s):
            await asyncio.sleep(pause)
            at = self._now()
            with contextlib.suppress(Fault):
                back, risen, ended = await self._store.release([r.job_id for r in refs], [r.token for r in refs], at)
                self._announcer.freed(ref.job_id for ref in back | ended)
                self._announcer.tell(risen, at)
                refs = [ref for ref in refs if ref not in back and ref not in ended]
            if not refs:
                return


def refs_of(jobs: Iterable[Job]) -> Iterable[LeaseRef]:
    """The leases of these jobs."""
    return (LeaseRef(job.id, job.lease_token or 0) for job in jobs)


def refs_in(lots: Iterable[Lot]) -> Iterable[LeaseRef]:
    """The leases of all jobs in these lots."""
    return (LeaseRef(job_id, lot.token) for lot in lots for job_id in lot.ids)
