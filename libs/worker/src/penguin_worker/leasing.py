"""Leases jobs, keeps them while they are worked on, and gives them up in order. It knows no handler by name.

The number of jobs in hand is bounded. While Queue is away it idles; a job whose lease is lost is dropped unspoken.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Mapping, Sequence

import grpc

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_worker.acknowledging import Acknowledger
from penguin_worker.config import WorkerConfig
from penguin_worker.jobs import Away, Job, Kind, NotDone, Reject, Retry, Snooze, Verdict
from penguin_worker.standing import Standing

log = logging.getLogger(__name__)

# How long places are gathered for a bigger lease, and how long a call may outlast its wait (seconds).
GATHER_S = 0.25
GRACE_S = 5.0
PER_CALL = 1000
SNOOZE_MIN_S = 0.5
SNOOZE_MAX_S = 5.0
# Answers that say nothing of the job: not there, too busy, too slow.
NOT_NOW = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)


class Worker:
    """Runs jobs of the given kinds until it is stopped.

    `stopping` turns true in the middle of the drain: handlers then put back what they have not begun.
    """

    def __init__(self, queue: Tier, config: WorkerConfig) -> None:
        self._queue = queue
        self._config = config
        self._kinds: Mapping[str, Kind] = {}
        # By job and lease: a job that was lost may be leased to us again before its first handler has ended.
        self._in_hand: dict[tuple[int, int], Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._space = asyncio.Event()
        self._queue_standing = Standing("queue")
        self._kind_standing = Standing("kind")
        self._acknowledger = Acknowledger(queue, self._queue_standing, self._gone)
        self._stopping = False

    @property
    def in_hand(self) -> int:
        """Jobs leased and not yet acknowledged."""
        return len(self._in_hand)

    def stopping(self) -> bool:
        """Whether what has not begun is to be put back."""
        return self._stopping

    async def run(self, kinds: Mapping[str, Kind], stopped: asyncio.Event) -> None:
        """Work until `stopped`, then finish what is in hand within the drain time and hand back the rest."""
        self._kinds = kinds
        leasing = asyncio.create_task(self._lease())
        beating = asyncio.create_task(self._heartbeats())
        waiting = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait([leasing, beating, waiting], return_when=asyncio.FIRST_COMPLETED)
            await _cancelled(leasing)
            await self._drain()
        finally:
            await asyncio.gather(*(_cancelled(task) for task in (leasing, beating, waiting)))

    async def _lease(self) -> None:
        while True:
            free = await self._places()
            kinds = self._kind_standing.present(self._kinds)
            if not kinds:
                await asyncio.sleep(0.1)
                continue
            # While some kinds are held up the poll is short, so that they are asked for again soon.
            wait = self._config.wait_s if len(kinds) == len(self._kinds) else min(1.0, self._config.wait_s)
            request = pb.LeaseJobsRequest(
                kinds=kinds, max_jobs=min(free, self._config.batch), worker_id=self._config.worker_id
            )
            request.lease_duration.FromMilliseconds(int(self._config.lease_s * 1000))
            request.wait.FromMilliseconds(int(wait * 1000))
            try:
                method = self._queue.stub(QueueServiceStub).LeaseJobs
                reply = await self._queue.call(method, request, timeout=wait + GRACE_S)
            except TierError as error:
                await asyncio.sleep(self._queue_standing.failed("leases", f"{error.tier}.{error.reason}"))
                continue
            self._queue_standing.answered("leases")
            self._take(reply.jobs)

    async def _places(self) -> int:
        """Wait for free places; for a moment also for more of them, so that jobs come in batches."""
        await self._free(1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._free(max(1, min(self._config.batch, self._config.concurrency) // 2))
        return self._config.concurrency - len(self._in_hand)

    async def _free(self, enough: int) -> None:
        while self._config.concurrency - len(self._in_hand) < enough:
            self._space.clear()
            await self._space.wait()

    def _take(self, leased: Sequence[pb.LeasedJob]) -> None:
        until = time.monotonic() + self._config.lease_s
        jobs = [Job.of(each, until) for each in leased]
        for job in jobs:
            job.on_settled = self._settled
            self._in_hand[job.id, job.lease_token] = job
        jobs.sort(key=lambda job: (job.kind, job.tenant_id))
        for (name, _), group in itertools.groupby(jobs, lambda job: (job.kind, job.tenant_id)):
            kind, together = self._kinds[name], list(group)
            for part in [together] if kind.together else [[job] for job in together]:
                task = asyncio.create_task(self._run(kind, part))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if not kind.together:
                    part[0].cancel = task.cancel

    async def _run(self, kind: Kind, jobs: Sequence[Job]) -> None:
        try:
            await kind.handler(jobs)
            error: NotDone = Retry("defect.unsettled")
        except Exception as raised:
            error = _said_of(raised)
            if error.error.startswith("defect."):
                log.exception("a handler of %s failed", jobs[0].kind)
        for job in jobs:
            job.settle(error)

    def _settled(self, job: Job, verdict: Verdict) -> None:
        if verdict is None:
            self._kind_standing.answered(job.kind)
        elif isinstance(verdict, Away):
            self._kind_standing.failed(job.kind, verdict.error)
            delay = min(SNOOZE_MIN_S * 2 ** min(job.snoozes, 10), SNOOZE_MAX_S)
            verdict = Snooze(verdict.error, delay * random.uniform(0.5, 1.0))
        elif isinstance(verdict, Reject):
            log.error("a job of %s is given up: %s", job.kind, verdict.error, extra={"detail": str(job.id)})
        if job.lost:
            self._gone(job)
        else:
            self._acknowledger.say(job, verdict)

    def _gone(self, job: Job) -> None:
        self._in_hand.pop((job.id, job.lease_token), None)
        self._space.set()

    async def _heartbeats(self) -> None:
        pause = self._config.lease_s / 3
        while True:
            await asyncio.sleep(pause)
            try:
                await self.extend()
                pause = self._config.lease_s / 3
            except TierError as error:
                self._queue_standing.failed("heartbeats", f"{error.tier}.{error.reason}")
                pause = min(1.0, self._config.lease_s / 10)

    async def extend(self) -> None:
        """Keep every job in hand for another lease; drops those that are lost. Raises TierError."""
        held = [job for job in self._in_hand.values() if not job.lost]
        for first in range(0, len(held), PER_CALL):
            jobs = held[first : first + PER_CALL]
            until = time.monotonic() + self._config.lease_s
            request = pb.ExtendLeasesRequest(leases=[job.lease() for job in jobs])
            request.lease_duration.FromMilliseconds(int(self._config.lease_s * 1000))
            method = self._queue.stub(QueueServiceStub).ExtendLeases
            reply = await self._queue.call(method, request, timeout=self._config.lease_s / 6)
            lost = set(reply.lost_job_ids)
            for job in jobs:
                if job.id not in lost:
                    job.lease_until = until
                elif not job.settled:
                    self._lose(job)
        if held:
            self._queue_standing.answered("heartbeats")

    def _lose(self, job: Job) -> None:
        job.lost = True
        log.warning("the lease of a job of %s is lost", job.kind, extra={"detail": str(job.id)})
        if job.cancel is not None:
            job.cancel()
            job.settle(Snooze("lease_lost", 0))

    async def _drain(self) -> None:
        ends = time.monotonic() + self._config.drain_s
        log.info("stopping with %d jobs in hand", len(self._in_hand))
        await self._finished(self._config.drain_s / 2)
        self._stopping = True
        await self._finished(max(0.0, ends - time.monotonic()))
        for task in set(self._tasks):
            await _cancelled(task)
        for job in list(self._in_hand.values()):
            # One that is committed keeps its lease: nobody is to try it before it is certain that we are gone.
            if not job.committed:
                job.settle(Snooze("worker_stopping", 0))
        await self._acknowledger.drain(min(GRACE_S, 1.0 + self._config.drain_s / 4))

    async def _finished(self, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._in_hand:
                    self._space.clear()
                    await self._space.wait()


def _said_of(error: Exception) -> NotDone:
    """What an exception says of its jobs: what is away burns no attempt, a defect does."""
    if isinstance(error, NotDone):
        return error
    if isinstance(error, TierError):
        name = f"{error.tier}.{error.reason or error.code.name}".lower()
        if error.code in NOT_NOW:
            return Away(name)
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Snooze(name, max(error.retry_after_s or 0.0, random.uniform(SNOOZE_MIN_S, SNOOZE_MAX_S)))
        return Retry(name)
    return Retry(f"defect.{type(error).__name__}")


async def _cancelled(task: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    """End a task and take in whatever it ends with; a defect that ended it before is raised."""
    if task.done() and not task.cancelled():
        task.result()
        return
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
