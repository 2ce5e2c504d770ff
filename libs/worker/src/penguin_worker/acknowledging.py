"""Tells the queue what became of jobs, many at a time. A word that cannot be delivered within its lease is dropped:
the lease runs out and the job comes back, to a handler that finds its work done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_worker.batching import MicroBatch
from penguin_worker.jobs import Job, Reject, Retry, Snooze, Verdict
from penguin_worker.standing import Standing

Said = tuple[Job, Verdict]
CALL_S = 5.0


class Acknowledger:
    """Completes, fails and snoozes jobs in small batches; calls `gone` with each job that is off our hands."""

    def __init__(self, queue: Tier, standing: Standing, gone: Callable[[Job], None]) -> None:
        self._queue = queue
        self._standing = standing
        self._gone = gone
        self._batch: MicroBatch[Said] = MicroBatch(self._flush)

    def say(self, job: Job, verdict: Verdict) -> None:
        """What became of a job that is still ours."""
        self._batch.add((job, verdict))

    async def drain(self, within_s: float) -> None:
        """Wait until everything is said, or give it up after so many seconds."""
        try:
            await asyncio.wait_for(self._batch.drain(), within_s)
        except TimeoutError:
            self._batch.cancel()

    async def _flush(self, said: list[Said]) -> None:
        stub = self._queue.stub(QueueServiceStub)
        done = [job for job, verdict in said if verdict is None]
        failed = [(job, v) for job, v in said if isinstance(v, Retry | Reject)]
        snoozed = [(job, v) for job, v in said if isinstance(v, Snooze)]
        calls: list[tuple[Any, Any, Sequence[Job]]] = []
        if done:
            calls.append((stub.CompleteJobs, pb.CompleteJobsRequest(leases=[job.lease() for job in done]), done))
        if failed:
            calls.append((stub.FailJobs, _failures(failed), [job for job, _ in failed]))
        if snoozed:
            calls.append((stub.SnoozeJobs, _snoozes(snoozed), [job for job, _ in snoozed]))
        await asyncio.gather(*(self._tell(*call) for call in calls))

    async def _tell(self, method: Any, request: Any, jobs: Sequence[Job]) -> None:
        try:
            left = max(0.1, max(job.lease_until for job in jobs) - time.monotonic())
            await self._queue.insist(method, request, deadline_s=left, timeout=CALL_S)
            self._standing.answered("acknowledgements")
        except TierError as error:
            self._standing.failed("acknowledgements", f"{error.tier}.{error.reason}")
        finally:
            for job in jobs:
                self._gone(job)


def _failures(failed: Sequence[tuple[Job, Retry | Reject]]) -> pb.FailJobsRequest:
    request = pb.FailJobsRequest()
    for job, verdict in failed:
        failure = request.failures.add(
            lease=job.lease(), error=verdict.error[:500], retryable=isinstance(verdict, Retry)
        )
        if isinstance(verdict, Retry) and verdict.delay_s is not None:
            failure.retry_delay.FromMilliseconds(int(verdict.delay_s * 1000))
    return request


def _snoozes(snoozed: Sequence[tuple[Job, Snooze]]) -> pb.SnoozeJobsRequest:
    request = pb.SnoozeJobsRequest()
    for job, verdict in snoozed:
        snooze = request.snoozes.add(lease=job.lease(), reason=verdict.error[:500])
        snooze.delay.FromMilliseconds(int(verdict.delay_s * 1000))
    return request
