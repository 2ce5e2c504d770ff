"""Tells the queue what became of jobs, many at a time. A word that is not answered within its lease is dropped: the lease
runs out and the job comes back, to a handler that finds its work done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter

import grpc

from penguin_orchestrator.errors import TierError
from penguin_worker.batching import MicroBatch
from penguin_worker.jobs import Job
from penguin_worker.standing import Standing
from penguin_worker.streaming import WorkStream
from penguin_worker.wording import Said, named, words_of

log = logging.getLogger(__name__)

# What the contract takes at once; a moment is enough to gather. While some words wait for their answer, others are on
# their way: a worker with many short jobs would otherwise stand still for as long as the queue takes to store them.
SIZE = 1000
DELAY_S = 0.005
PARALLEL = 4
_lease_until = attrgetter("lease_until")
# A word whose lease is nearly over is said once all the same.
LEAST_S = 0.1
# What the queue says where it fails at something itself. Once that may be anything; a second time it may be what is said.
DEFECT = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
# What it says to words that it does not take.
REFUSED = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


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
        except Exception:
            # Of this batch alone: those that wait behind it are to be said.
            log.exception("words on %d jobs are not said", len(jobs))
        finally:
            self._gone(jobs)

    async def _insist(self, said: Sequence[Said]) -> None:
        """Say it on one stream after the other, until one answers. What is refused is said again without the texts of its
        handlers, the word that the refusal names or all of them, and a word that is refused even so is left out. Raises
        TierError where they cannot be told apart."""
        bare: set[Job] = set()
        failed = False
        while said:
            stream = await self._stream()
            words = words_of(said, bare)
            try:
                await stream.say(words)
            except TierError as error:
                if error.retryable:
                    if failed and error.code in DEFECT:
                        bare.update(job for job, _ in said)
                    failed = error.code in DEFECT
                    await asyncio.sleep(self._standing.failed("acknowledgements", f"{error.tier}.{error.reason}"))
                elif error.code in REFUSED:
                    said = _without(said, bare, named(words, error.field), error)
                else:
                    raise
            else:
                return


def _without(said: Sequence[Said], bare: set[Job], job_id: int | None, error: TierError) -> Sequence[Said]:
    """What is left to say of words that were refused because of this job's, or of any; those in doubt become `bare`."""
    blamed = [job for job, _ in said if job_id in (None, job.id)]
    if not bare.issuperset(blamed):
        bare.update(blamed)
        log.error("words on jobs are refused, and said again with %d of them without their texts", len(blamed))
        return said
    if job_id is None:
        raise error
    log.error("a word on a job of %s is refused", blamed[0].kind, extra={"detail": str(job_id)})
    return [each for each in said if each[0].id != job_id]
