"""A small fake of the Queue tier: jobs in memory, leases that run out, tokens that fence, and the stream of a worker."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc
import orjson

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2_grpc as queue_grpc
from penguin_testkit.switches import Switch


@dataclass
class StoredJob:
    """A job as the fake queue keeps it."""

    job: pb.Job
    lease_token: int = 0
    leased_until: float = 0.0
    due: float = 0.0
    reasons: list[str] = field(default_factory=list)


@dataclass
class _Stream:
    start: pb.WorkStart
    ends: float
    # Counted from 1, in the order in which they were started.
    place: int
    told: bool = False
    # Jobs in the worker's hands.
    held: set[int] = field(default_factory=set)
    answers: list[pb.WorkJobsResponse] = field(default_factory=list)


class FakeQueue(queue_grpc.QueueServiceServicer):
    """Jobs in memory, with leases that run out and tokens that fence."""

    def __init__(self) -> None:
        self.switch = Switch()
        # How streams were started, what was said on them, and how long one may live (seconds).
        self.started: list[pb.WorkStart] = []
        self.spoken: list[pb.WorkJobsRequest] = []
        self.life_s = 300.0
        # So many of the streams, the first ones, are at a process that is draining.
        self.drained = 0
        self.jobs: dict[int, StoredJob] = {}
        self._requests: dict[str, int] = {}
        self._numbers = itertools.count(1)

    def put(self, tenant_id: UUID, kind: str, payload: Mapping[str, Any], **fields: Any) -> int:
        """A job that is due."""
        job = pb.Job(
            id=next(self._numbers), tenant_id=str(tenant_id), kind=kind, payload=orjson.dumps(dict(payload)),
            state=pb.JOB_STATE_READY, **({"max_attempts": 10} | fields),
        )  # fmt: skip
        job.created_at.GetCurrentTime()
        self.jobs[job.id] = StoredJob(job)
        return job.id

    def state(self, job_id: int) -> str:
        """ready, leased, completed or dead."""
        return pb.JobState.Name(self.jobs[job_id].job.state).removeprefix("JOB_STATE_").lower()

    def steal(self, job_id: int) -> None:
        """Let another worker have it: the lease in hand is lost."""
        self.jobs[job_id].lease_token = next(self._numbers)

    async def EnqueueJobs(  # noqa: N802
        self, request: pb.EnqueueJobsRequest, context: Any
    ) -> pb.EnqueueJobsResponse:
        await self.switch.enter("EnqueueJobs", context)
        reply = pb.EnqueueJobsResponse()
        for new in request.jobs:
            if new.request_id not in self._requests:
                payload = orjson.loads(new.payload or b"{}")
                self._requests[new.request_id] = self.put(UUID(request.tenant_id), new.kind, payload)
            reply.results.add(job_id=self._requests[new.request_id])
        return reply

    async def EnqueueBatch(  # noqa: N802
        self, request: pb.EnqueueBatchRequest, context: Any
    ) -> pb.EnqueueBatchResponse:
        await self.switch.enter("EnqueueBatch", context)
        if request.request_id not in self._requests:
            ids = [self.put(UUID(request.tenant_id), request.kind, orjson.loads(each)) for each in request.payloads]
            self._requests[request.request_id] = ids[0]
        return pb.EnqueueBatchResponse(first_job_id=self._requests[request.request_id], count=len(request.payloads))

    async def WorkJobs(  # noqa: N802
        self, requests: AsyncIterator[pb.WorkJobsRequest], context: Any
    ) -> AsyncIterator[pb.WorkJobsResponse]:
        await self.switch.enter("WorkJobs", context)
        await context.send_initial_metadata(())
        start = (await anext(requests)).start
        self.started.append(start)
        yield pb.WorkJobsResponse()
        stream = _Stream(start, time.monotonic() + self.life_s, len(self.started))
        hearing = asyncio.create_task(self._hear(stream, requests))
        try:
            while not (hearing.done() and not stream.answers):
                if self.switch.down or time.monotonic() > stream.ends:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "ended")
                if self._drains(stream) and not stream.told:
                    stream.told = True
                    stream.answers.append(pb.WorkJobsResponse(answer=pb.WorkAnswer(draining=True)))
                while stream.answers:
                    yield stream.answers.pop(0)
                if jobs := self._lease(stream):
                    yield pb.WorkJobsResponse(jobs=jobs)
                await asyncio.sleep(0.005)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _hear(self, stream: _Stream, requests: AsyncIterator[pb.WorkJobsRequest]) -> None:
        async for words in requests:
            answer = self._act(words, stream.start.lease_duration.ToTimedelta().total_seconds())
            answer.draining = self._drains(stream)
            stream.held -= {ref.job_id for ref in _spoken_of(words)} | set(answer.lost_job_ids)
            self.spoken.append(words)
            if "WorkJobs" not in self.switch.deaf:
                stream.answers.append(pb.WorkJobsResponse(answer=answer))

    def _drains(self, stream: _Stream) -> bool:
        return stream.place <= self.drained

    def _lease(self, stream: _Stream) -> list[pb.LeasedJobs]:
        if self._drains(stream):
            return []
        # One token for all that is leased at once, as the tier has it.
        now, token = time.monotonic(), next(self._numbers)
        lots: dict[tuple[str, str], pb.LeasedJobs] = {}
        for stored in self.jobs.values():
            job = stored.job
            if job.state == pb.JOB_STATE_LEASED and stored.leased_until <= now:
                job.state, job.lost_leases = pb.JOB_STATE_READY, job.lost_leases + 1
            ready = job.state == pb.JOB_STATE_READY and stored.due <= now
            if not ready or job.kind not in stream.start.kinds or len(stream.held) >= stream.start.max_in_flight:
                continue
            stream.held.add(job.id)
            job.state = pb.JOB_STATE_LEASED
            stored.lease_token = token
            stored.leased_until = now + stream.start.lease_duration.ToTimedelta().total_seconds()
            lot = lots.setdefault((job.tenant_id, job.kind), _lot(job, token, stream.start))
            _append(lot, job)
        return list(lots.values())

    def _held(self, ref: pb.LeaseRef) -> StoredJob | None:
        stored = self.jobs.get(ref.job_id)
        if stored is None or stored.lease_token != ref.lease_token or stored.job.state != pb.JOB_STATE_LEASED:
            return None
        return stored

    async def ExtendLeases(  # noqa: N802
        self, request: pb.ExtendLeasesRequest, context: Any
    ) -> pb.ExtendLeasesResponse:
        await self.switch.enter("ExtendLeases", context)
        lost = self._extend(request.leases, request.lease_duration.ToTimedelta().total_seconds())
        for told in request.progress:
            if told.job_id not in lost:
                self.jobs[told.job_id].job.progress.CopyFrom(told)
        return pb.ExtendLeasesResponse(lost_job_ids=lost)

    def _act(self, words: pb.WorkJobsRequest, lease_s: float) -> pb.WorkAnswer:
        answer = pb.WorkAnswer(number=words.number)
        for ref in _refs(words.completed):
            stored = self.jobs[ref.job_id]
            if stored.job.state == pb.JOB_STATE_COMPLETED and stored.lease_token == ref.lease_token:
                answer.completed += 1
            elif self._held(ref) is None:
                answer.lost_job_ids.append(ref.job_id)
            else:
                stored.job.state = pb.JOB_STATE_COMPLETED
                answer.completed += 1
        self._keep(each for each in words.results if each.job_id not in answer.lost_job_ids)
        for failure in words.failures:
            self._fail(failure, answer)
        for snooze in words.snoozes:
            if (held := self._held(snooze.lease)) is None:
                answer.lost_job_ids.append(snooze.lease.job_id)
                continue
            held.job.snoozes += 1
            held.job.state = pb.JOB_STATE_READY
            held.due = time.monotonic() + snooze.delay.ToTimedelta().total_seconds()
            held.reasons.append(snooze.reason)
            answer.snoozed += 1
        for ref in _refs(words.released):
            if (held := self._held(ref)) is None:
                answer.lost_job_ids.append(ref.job_id)
            else:
                held.job.state = pb.JOB_STATE_READY
                answer.released += 1
        answer.lost_job_ids.extend(self._extend(_refs(words.extended), lease_s))
        return answer

    def _keep(self, results: Iterable[pb.JobResult]) -> None:
        for each in results:
            self.jobs[each.job_id].job.result = each.result

    def _extend(self, refs: Iterable[pb.LeaseRef], lease_s: float) -> list[int]:
        lost = []
        for ref in refs:
            if (stored := self._held(ref)) is None:
                lost.append(ref.job_id)
            else:
                stored.leased_until = time.monotonic() + lease_s
        return lost

    def _fail(self, failure: pb.JobFailure, answer: pb.WorkAnswer) -> None:
        if (stored := self._held(failure.lease)) is None:
            answer.lost_job_ids.append(failure.lease.job_id)
            return
        stored.job.attempts += 1
        stored.job.last_error = failure.error
        dead = not failure.retryable or stored.job.attempts >= stored.job.max_attempts
        stored.job.state = pb.JOB_STATE_DEAD if dead else pb.JOB_STATE_READY
        stored.due = time.monotonic() + 0.05
        answer.dead += dead
        answer.retried += not dead


def _lot(job: pb.Job, token: int, start: pb.WorkStart) -> pb.LeasedJobs:
    lot = pb.LeasedJobs(tenant_id=job.tenant_id, kind=job.kind, lease_token=token, priority=job.priority)
    lot.leased_until.FromDatetime(datetime.now(UTC) + start.lease_duration.ToTimedelta())
    return lot


def _append(lot: pb.LeasedJobs, job: pb.Job) -> None:
    lot.job_ids.append(job.id)
    lot.payloads.append(job.payload)
    lot.created_at_micros.append(job.created_at.ToMicroseconds())
    lot.attempts.append(job.attempts)
    lot.lost_leases.append(job.lost_leases)
    lot.snoozes.append(job.snoozes)
    lot.max_attempts.append(job.max_attempts)
    lot.traceparents.append(job.traceparent)


def _refs(leases: pb.Leases) -> list[pb.LeaseRef]:
    return [pb.LeaseRef(job_id=i, lease_token=t) for i, t in zip(leases.job_ids, leases.lease_tokens, strict=True)]


def _spoken_of(words: pb.WorkJobsRequest) -> list[pb.LeaseRef]:
    told = [failure.lease for failure in words.failures] + [snooze.lease for snooze in words.snoozes]
    return [*told, *_refs(words.completed), *_refs(words.released)]
