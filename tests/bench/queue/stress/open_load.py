"""A load that keeps its own time. A job counts from when it was to be sent, not from when the queue let us send it: a stall
holds up those that come after it, and these show it too."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import UUID

from tests.bench.queue.stress.maths import Sample

from penguin_orchestrator.jobs import Terms
from penguin_orchestrator.platform import Penguin
from penguin_worker.jobs import Job

# Jobs that have not begun so long after the last one was sent are not waited for (seconds).
REST_S = 15.0


@dataclass
class OpenLoad:
    """Jobs on the same terms of one tenant, one every `1 / rate` seconds."""

    penguin: Penguin
    tenant: UUID
    terms: Terms
    rate: float
    # Called with its number when each is sent, and when it is acknowledged.
    on_sent: Callable[[int], None] = field(default=lambda number: None)
    on_stored: Callable[[int], None] = field(default=lambda number: None)
    began_at: float = 0.0
    sent: int = 0
    waits: dict[int, float] = field(default_factory=dict)
    _all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, seconds: float, phase: float = 0.0) -> None:
        """Send for so long, the first one `phase` seconds from now; returns when all are sent and acknowledged."""
        self.began_at = time.perf_counter() + phase
        count = int(seconds * self.rate)
        async with asyncio.TaskGroup() as sending:
            for number in range(count):
                await asyncio.sleep(max(0.0, self._meant_for(number) - time.perf_counter()))
                self.sent += 1
                sending.create_task(self._send(number))
        self._look()

    @contextlib.asynccontextmanager
    async def running(self, seconds: float) -> AsyncIterator[None]:
        """Send beside the block, for so long at most; raises what sending raises, so that no load ends unseen."""
        sending = asyncio.create_task(self.run(seconds))
        try:
            yield
        finally:
            sending.cancel()
            (ended,) = await asyncio.gather(sending, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended

    def begun(self, job: Job) -> float:
        """Its handler starts; returns how long after its time (milliseconds)."""
        return self.begun_number(int(job.payload["number"]))

    def begun_number(self, number: int) -> float:
        """The same, by the number in its payload."""
        wait = (time.perf_counter() - self._meant_for(number)) * 1000
        # Begun again, it began when it first did.
        self.waits.setdefault(number, wait)
        self._look()
        return wait

    async def rest(self, seconds: float = REST_S) -> int:
        """Wait for those that have not begun; returns how many never did in time."""
        self._look()
        try:
            async with asyncio.timeout(seconds):
                await self._all_begun.wait()
        except TimeoutError:
            pass
        return self.sent - len(self.waits)

    def samples(self) -> list[Sample]:
        """Each job's time and wait. One that has not begun has waited until now at least, and counts so."""
        now = time.perf_counter()
        return [
            (number / self.rate, self.waits.get(number, (now - self._meant_for(number)) * 1000))
            for number in range(self.sent)
        ]

    async def _send(self, number: int) -> None:
        self.on_sent(number)
        await self.penguin.jobs.enqueue(self.tenant, self.terms, {"number": number})
        self.on_stored(number)

    def _meant_for(self, number: int) -> float:
        return self.began_at + number / self.rate

    def _look(self) -> None:
        if len(self.waits) >= self.sent:
            self._all_begun.set()
        else:
            self._all_begun.clear()
