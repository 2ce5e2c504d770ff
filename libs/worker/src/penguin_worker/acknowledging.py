"""Tells the queue what became of jobs, many at a time. A word that is not answered within its lease is dropped: the lease
runs out and the job comes back, to a handler that finds its work done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_orchestrator.errors import TierError
from penguin_worker.batching import MicroBatch
from penguin_worker.jobs import Job, Reject, Release, Retry, Snooze, Verdict
from penguin_worker.standing import Standing
from penguin_worker.streaming import WorkStream

log = logging.getLogger(__name__)

Said = tuple[Job, Verdict]
# What the contract takes at once; a moment is enough to gather. While some words wait for their answer, others are on
# their way: a worker with many short jobs would otherwise stand still for as long as the queue takes to store them.
SIZE = 1000
DELAY_S = 0.005
PARALLEL = 4
_lease_until = attrgetter("lease_until")
# A word whose lease is nearly over is said once all the same.
LEAST_S = 0.1
ERROR_MAX = 500
MESSAGE_MAX = 1000
RESULT_MAX = 500
DELAY_MAX_S = 7 * 24 * 3600.0


class Acknowledger:
    """Says words of jobs on whichever stream is open; calls `gone` with those that are off our hands."""

    def __init__(
        self, stream: Callable[[], Awaitable[WorkStream]], standing: Standing, gone: Callable[[Sequence[Job]], None]
    ) -> None:
        self._stream = stream
        self._standing = standing
        self._gone = gone
        self._batch: MicroBatch[Said] = MicroBatch(self._flush, size=SIZE, delay_s=DELAY_S, parallel=PARALLEL)
        # Says what became of a job. Words on a lost lease do nothing but free the place that the queue keeps for it.
        self.say: Callable[[Said], None] = self._batch.add

    async def drain(self, within_s: float) -> None:
        """Wait until everything is said, or give it up after so many seconds."""
        try:
            await asyncio.wait_for(self._batch.drain(), within_s)
        except TimeoutError:
            self._batch.cancel()

    async def _flush(self, said: list[Said]) -> None:
        jobs = [job for job, _ in said]
        left = max(map(_lease_until, jobs)) - time.monotonic()
        try:
            async with asyncio.timeout(max(LEAST_S, left)):
                await self._insist(said)
            self._standing.answered("acknowledgements")
        except TimeoutError:
            self._standing.failed("acknowledgements", "queue.UNANSWERED")
        except TierError as error:
            self._standing.failed("acknowledgements", f"{error.tier}.{error.reason}")
        finally:
            self._gone(jobs)

    async def _insist(self, said: Sequence[Said]) -> None:
        """Say it on one stream after the other, until one answers; raises TierError where it is refused for good."""
        while True:
            stream = await self._stream()
            try:
                await stream.say(words_of(said))
            except TierError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(self._standing.failed("acknowledgements", f"{error.tier}.{error.reason}"))
            else:
                return


def words_of(said: Sequence[Said]) -> pb.WorkJobsRequest:
    """What became of jobs, as the stream is told."""
    words = pb.WorkJobsRequest()
    done = [job for job, verdict in said if verdict is None]
    words.completed.job_ids.extend([job.id for job in done])
    words.completed.lease_tokens.extend([job.lease_token for job in done])
    for job in done:
        if job.result:
            _add_result(words, job)
    for job, verdict in said:
        if verdict is None:
            continue
        if isinstance(verdict, Snooze):
            snooze = words.snoozes.add(lease=_lease(job), reason=verdict.error[:ERROR_MAX])
            snooze.delay.FromMilliseconds(_milliseconds(verdict.delay_s))
        elif isinstance(verdict, Retry | Reject):
            error = verdict.error[:ERROR_MAX] or "unnamed"
            failure = words.failures.add(
                lease=_lease(job), error=error, retryable=isinstance(verdict, Retry),
                message=verdict.message[:MESSAGE_MAX],
            )  # fmt: skip
            if isinstance(verdict, Retry) and verdict.delay_s is not None:
                failure.retry_delay.FromMilliseconds(_milliseconds(verdict.delay_s))
        elif isinstance(verdict, Release):
            words.released.job_ids.append(job.id)
            words.released.lease_tokens.append(job.lease_token)
        else:
            raise TypeError(f"the queue has no word for {type(verdict).__name__}")
    return words


def _lease(job: Job) -> pb.LeaseRef:
    return pb.LeaseRef(job_id=job.id, lease_token=job.lease_token)


def _add_result(words: pb.WorkJobsRequest, job: Job) -> None:
    size = len(job.result.encode(errors="replace"))
    if size > RESULT_MAX or "\0" in job.result:
        # What is done is done: refusing it would do it again.
        log.error("a result of %s is no reference: it is left out", job.kind, extra={"detail": str(job.id)})
    else:
        words.results.add(job_id=job.id, result=job.result.encode(errors="replace").decode())


def _milliseconds(delay_s: float) -> int:
    return int(min(max(delay_s, 0.0), DELAY_MAX_S) * 1000)
