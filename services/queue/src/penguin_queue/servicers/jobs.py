"""QueueService on the wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_chassis import calls
from penguin_chassis.errors import item_error
from penguin_chassis.faults import DeadlineExceeded, Fault
from penguin_chassis.mutations import gate_of, item_steps, step_of
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.wire import stamp, word
from penguin_queue.operations.control import Control
from penguin_queue.operations.returning import refs_in, refs_of
from penguin_queue.operations.side_by_side import side_by_side
from penguin_queue.operations.streams import ACT_S, Start, Stream
from penguin_queue.operations.tallies import Tallies
from penguin_queue.operations.work import Work
from penguin_queue.servicers import jobs_wire as wire
from penguin_queue.servicers.control import ControlMethods
from penguin_queue.store.jobs import LAST, JobStore

# Batches of one stream that are stored side by side.
ENQUEUES_AT_ONCE = 4


class QueueServicer(ControlMethods):
    """Jobs for their producers, their workers and their tenants."""

    def __init__(self, work: Work, jobs: JobStore, control: Control, streams: Callable[[Start], Stream]) -> None:
        super().__init__(control)
        self._work = work
        self._jobs = jobs
        self._tallies = Tallies(jobs, work.now)
        self._streams = streams

    async def EnqueueJobs(self, request: pb.EnqueueJobsRequest, context: Any) -> pb.EnqueueJobsResponse:
        items = list(
            zip(
                item_steps(request, request.jobs),
                map(wire.new_job, range(len(request.jobs)), request.jobs),
                strict=True,
            )
        )
        answers = await self._work.enqueue(UUID(request.tenant_id), items, gate_of(request, undoes=True))
        return pb.EnqueueJobsResponse(results=map(wire.enqueued, answers))

    async def EnqueueBatch(self, request: pb.EnqueueBatchRequest, context: Any) -> pb.EnqueueBatchResponse:
        ids, callback = await self._work.enqueue_batch(step_of(request), wire.new_batch(request))
        return pb.EnqueueBatchResponse(first_job_id=ids.start, count=len(ids), callback_job_id=callback)

    async def EnqueueStream(
        self, request_iterator: AsyncIterator[pb.EnqueueBatchRequest], context: Any
    ) -> AsyncIterator[pb.EnqueueStreamResponse]:
        await context.send_initial_metadata(())
        async with contextlib.aclosing(side_by_side(request_iterator, self._enqueue_one, ENQUEUES_AT_ONCE)) as replies:
            async for reply in replies:
                yield reply

    async def _enqueue_one(self, request: pb.EnqueueBatchRequest) -> pb.EnqueueStreamResponse:
        try:
            with calls.within(ACT_S):
                async with asyncio.timeout(ACT_S):
                    stored = await self.EnqueueBatch(request, None)
        except Fault as fault:
            return pb.EnqueueStreamResponse(request_id=request.request_id, error=item_error(fault))
        except TimeoutError:
            return pb.EnqueueStreamResponse(request_id=request.request_id, error=item_error(DeadlineExceeded()))
        return pb.EnqueueStreamResponse(request_id=request.request_id, stored=stored)

    async def LeaseJobs(self, request: pb.LeaseJobsRequest, context: Any) -> pb.LeaseJobsResponse:
        found = await self._work.lease(
            tuple(sorted(set(request.kinds))),
            request.max_jobs,
            request.lease_duration.ToTimedelta(),
            request.wait.ToTimedelta(),
            request.worker_id,
        )
        with self._work.giving_back(refs_of(found)):
            return pb.LeaseJobsResponse(jobs=map(wire.leased, found))

    async def WorkJobs(
        self, request_iterator: AsyncIterator[pb.WorkJobsRequest], context: Any
    ) -> AsyncIterator[pb.WorkJobsResponse]:
        # The worker is let in: what it says before it knows may be lost, and the reason of a refusal with it.
        await context.send_initial_metadata(())
        start = wire.start(await anext(request_iterator, None))
        yield pb.WorkJobsResponse()
        async with contextlib.aclosing(self._streams(start).run(wire.words(request_iterator))) as replies:
            async for reply in replies:
                with self._work.giving_back(refs_in(reply) if isinstance(reply, list) else ()):
                    message = wire.reply(reply)
                yield message

    async def ExtendLeases(self, request: pb.ExtendLeasesRequest, context: Any) -> pb.ExtendLeasesResponse:
        leases = [wire.lease_ref(ref) for ref in request.leases]
        until, held, cancelling = await self._work.extend(
            leases,
            request.lease_duration.ToTimedelta(),
            wire.progress(request.progress, [ref.job_id for ref in leases]),
        )
        return pb.ExtendLeasesResponse(
            leased_until=stamp(until),
            lost_job_ids=wire.lost(leases, held),
            cancelled_job_ids=cancelling,
            draining=self._work.draining,
        )

    async def CompleteJobs(self, request: pb.CompleteJobsRequest, context: Any) -> pb.CompleteJobsResponse:
        ids, tokens = [ref.job_id for ref in request.leases], [ref.lease_token for ref in request.leases]
        lost = await self._work.complete(ids, tokens, wire.results(request.results, ids))
        return pb.CompleteJobsResponse(completed=len(set(ids)) - len(lost), lost_job_ids=lost)

    async def FailJobs(self, request: pb.FailJobsRequest, context: Any) -> pb.FailJobsResponse:
        failures = [wire.failure(item) for item in request.failures]
        retried, dead, cancelled = await self._work.fail(failures)
        lost = wire.lost([f.lease for f in failures], retried | dead | cancelled)
        return pb.FailJobsResponse(retried=len(retried), dead=len(dead), cancelled=len(cancelled), lost_job_ids=lost)

    async def SnoozeJobs(self, request: pb.SnoozeJobsRequest, context: Any) -> pb.SnoozeJobsResponse:
        snoozes = [wire.snooze(item) for item in request.snoozes]
        off, cancelled = await self._work.snooze(snoozes)
        lost = wire.lost([s.lease for s in snoozes], off | cancelled)
        return pb.SnoozeJobsResponse(snoozed=len(off), cancelled=len(cancelled), lost_job_ids=lost)

    async def ReleaseJobs(self, request: pb.ReleaseJobsRequest, context: Any) -> pb.ReleaseJobsResponse:
        leases = [wire.lease_ref(ref) for ref in request.leases]
        back, cancelled = await self._work.release([ref.job_id for ref in leases], [ref.token for ref in leases])
        lost = wire.lost(leases, back | cancelled)
        return pb.ReleaseJobsResponse(released=len(back), cancelled=len(cancelled), lost_job_ids=lost)

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        found = await self._jobs.get(UUID(request.tenant_id), request.job_id)
        return pb.GetJobResponse(job=wire.job(found))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        size = page_size(request.page_size)
        found = await self._jobs.list_page(
            UUID(request.tenant_id),
            before=page_start(request, wire.place, LAST),
            state=word(pb.JobState, request.state),
            kind=request.kind,
            limit=size + 1,
        )
        token = next_token(request, [found[size - 1].id]) if len(found) > size else ""
        return pb.ListJobsResponse(jobs=map(wire.job, found[:size]), next_page_token=token)

    async def GetJobPayloads(self, request: pb.GetJobPayloadsRequest, context: Any) -> pb.GetJobPayloadsResponse:
        found = dict(await self._jobs.payloads(UUID(request.tenant_id), list(request.job_ids)))
        return pb.GetJobPayloadsResponse(
            payloads=[pb.JobPayload(job_id=n, payload=each) for n, each in found.items() if each is not None],
            missing_ids=sorted(set(request.job_ids).difference(found)),
            deferred_ids=[n for n, each in found.items() if each is None],
        )

    async def ListJobAttempts(self, request: pb.ListJobAttemptsRequest, context: Any) -> pb.ListJobAttemptsResponse:
        size = page_size(request.page_size)
        before = page_start(request, wire.attempt_place, wire.LAST_ATTEMPT)
        found = await self._jobs.list_attempts(UUID(request.tenant_id), request.job_id, before, size + 1)
        token = next_token(request, wire.attempt_key(found[size - 1])) if len(found) > size else ""
        return pb.ListJobAttemptsResponse(attempts=map(wire.attempt, found[:size]), next_page_token=token)

    async def GetQueueStats(self, request: pb.GetQueueStatsRequest, context: Any) -> pb.GetQueueStatsResponse:
        found = await self._tallies.stats(UUID(request.tenant_id))
        return pb.GetQueueStatsResponse(
            counts=map(wire.count, found.counts), oldest_due_at=stamp(found.oldest_due_at),
            computed_at=stamp(found.at), history_computed_at=stamp(found.history_at),
        )  # fmt: skip
