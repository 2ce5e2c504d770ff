"""Keeps leases while their jobs are worked on, from a thread and over a channel of its own: a handler that hogs the event
loop, or a stream that is just being opened anew, loses no lease. A process that stands still for too long is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import grpc

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.clients import OPTIONS, Tier
from penguin_orchestrator.errors import TierError
from penguin_worker.jobs import Job

log = logging.getLogger(__name__)

PER_CALL = 1000
# The loop shows that it is alive, and renews the thread's token, at least this often (seconds). A token is good for longer
# by some forty seconds at least, and mostly by minutes.
SHOW_S = 15.0


@dataclass
class _Answer:
    """What a call of the thread brought, for the event loop to hear of."""

    lost: list[Job] = field(default_factory=list)
    cancelled: list[Job] = field(default_factory=list)
    trouble: str = ""


class Heartbeats:
    """Extends the leases of `held` jobs by `lease_s` seconds, three times in each; tells `lost` of those that are not ours
    any more, `cancelled` of those that their tenant wants to end, and `told` of trouble or of none (empty), all on the event
    loop. Once that has stood still for `stuck_s`
    seconds leases are let go, and `stuck` is called in the thread."""

    def __init__(
        self,
        queue: Tier,
        lease_s: float,
        stuck_s: float,
        held: Callable[[], Sequence[Job]],
        lost: Callable[[Sequence[Job]], None],
        cancelled: Callable[[Sequence[Job]], None],
        told: Callable[[str], None],
        stuck: Callable[[], None] | None = None,
    ) -> None:
        if not queue.address:
            raise ValueError("heartbeats need the queue's address, for a channel of their own")
        self._queue = queue
        self._lease_s = lease_s
        self._stuck_s = stuck_s
        self._held = held
        self._lost = lost
        self._cancelled = cancelled
        self._told = told
        self._stuck = stuck
        self._ending = threading.Event()
        # Of the event loop: its last sign of life, and what proves who we are.
        self._alive_at = time.monotonic()
        self._metadata: tuple[tuple[str, str], ...] = ()

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Keep leases while inside. The thread may outlast it by one call."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._beat, args=(loop,), name="heartbeats", daemon=True)
        showing = asyncio.create_task(self._show())
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            await asyncio.to_thread(thread.join, self._lease_s)

    async def _show(self) -> None:
        # Twice this is less than it takes to be thought stuck.
        pause = min(SHOW_S, self._lease_s / 4, self._stuck_s / 4)
        while True:
            self._alive_at = time.monotonic()
            try:
                async with asyncio.timeout(pause):
                    method = self._queue.stub(QueueServiceStub).ExtendLeases
                    self._metadata = tuple(await self._queue.platform_metadata(method))
            except (TierError, TimeoutError):
                pass  # the one before may still do
            except Exception:
                log.exception("no token for the heartbeats")
            await asyncio.sleep(pause)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        with grpc.insecure_channel(self._queue.address, options=OPTIONS) as channel:
            stub = QueueServiceStub(channel)
            pause = self._lease_s / 3
            suspected = False
            while not self._ending.wait(pause):
                if time.monotonic() - self._alive_at > self._stuck_s:
                    # Seen twice: a process that was only halted as a whole shows itself first.
                    if suspected:
                        self._let_go()
                    suspected, pause = True, min(1.0, self._lease_s / 3)
                    continue
                suspected = False
                answer = self._extend(stub)
                pause = min(1.0, self._lease_s / 10) * random.uniform(0.75, 1) if answer.trouble else self._lease_s / 3
                with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                    loop.call_soon_threadsafe(self._tell, answer)

    def _let_go(self) -> None:
        log.error("the event loop stands still: leases are let go")
        if self._stuck is not None:
            self._stuck()

    def _extend(self, stub: QueueServiceStub) -> _Answer:
        answer = _Answer()
        held = [job for job in self._held() if not job.lost]
        for first in range(0, len(held), PER_CALL):
            jobs = held[first : first + PER_CALL]
            now = time.monotonic()
            until = now + self._lease_s
            leases = [pb.LeaseRef(job_id=job.id, lease_token=job.lease_token) for job in jobs]
            request = pb.ExtendLeasesRequest(leases=leases)
            request.lease_duration.FromMilliseconds(int(self._lease_s * 1000))
            told = {job: progress for job in jobs if (progress := job.untold(now)) is not None}
            for job, progress in told.items():
                request.progress.add(job_id=job.id, done=progress.done, total=progress.total, note=progress.note)
            try:
                reply = stub.ExtendLeases(request, metadata=self._metadata, timeout=self._lease_s / 6)
            except grpc.RpcError as error:
                answer.trouble = f"{self._queue.name}.{error.code().name}"
                break
            except Exception:
                # The thread outlives it: without heartbeats every lease would be lost.
                log.exception("a heartbeat failed")
                answer.trouble = "defect"
                break
            # That the process which answered is draining is no news here: the channel finds another, and streams are told themselves.
            lost, cancelled = set(reply.lost_job_ids), set(reply.cancelled_job_ids)
            for job, progress in told.items():
                job.heard(progress, now)
            for job in jobs:
                if job.id in lost:
                    answer.lost.append(job)
                    continue
                job.lease_until = until
                if job.id in cancelled:
                    answer.cancelled.append(job)
        return answer

    def _tell(self, answer: _Answer) -> None:
        self._told(answer.trouble)
        self._lost(answer.lost)
        self._cancelled(answer.cancelled)
