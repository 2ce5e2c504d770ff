"""The methods of QueueService by which a tenant has a say in its jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2_grpc
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.mutations import step_of
from penguin_chassis.wire import when, word
from penguin_queue.domain.jobs import DeadFilter, PurgeFilter
from penguin_queue.operations.control import Control
from penguin_queue.store.control import SAMPLE

MAX_REDRIVEN = 1000
MAX_PURGED = 5000


class ControlMethods(queue_service_pb2_grpc.QueueServiceServicer):
    """The tenant's side."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def CancelJobs(self, request: pb.CancelJobsRequest, context: Any) -> pb.CancelJobsResponse:
        done = await self._control.cancel(step_of(request), list(request.job_ids))
        skipped = sorted(set(request.job_ids).difference(done.ended, done.marked))
        return pb.CancelJobsResponse(
            cancelled_job_ids=done.ended, cancelling_job_ids=done.marked, skipped_job_ids=skipped
        )

    async def RedriveJobs(self, request: pb.RedriveJobsRequest, context: Any) -> pb.RedriveJobsResponse:
        _check_either(request)
        if request.HasField("filter"):
            return await self._redrive_matching(request)
        if request.dry_run:
            would, skipped = await self._control.dead_among(UUID(request.tenant_id), list(request.job_ids))
            return pb.RedriveJobsResponse(
                redriven=would.count, sample_job_ids=would.sample, skipped_job_ids=sorted(skipped)
            )
        risen = await self._control.redrive(step_of(request), list(request.job_ids))
        return pb.RedriveJobsResponse(
            redriven=len(risen), skipped_job_ids=sorted(set(request.job_ids).difference(risen))
        )

    async def _redrive_matching(self, request: pb.RedriveJobsRequest) -> pb.RedriveJobsResponse:
        chosen, limit = _dead_filter(request.filter), request.max_jobs or MAX_REDRIVEN
        if request.dry_run:
            would = await self._control.redrivable(UUID(request.tenant_id), chosen, limit)
            return pb.RedriveJobsResponse(redriven=would.count, remaining=would.remaining, sample_job_ids=would.sample)
        done = await self._control.redrive_matching(step_of(request), chosen, limit)
        return pb.RedriveJobsResponse(redriven=done.count, remaining=done.remaining)

    async def PurgeJobs(self, request: pb.PurgeJobsRequest, context: Any) -> pb.PurgeJobsResponse:
        asked, limit = request.filter, request.max_jobs or MAX_PURGED
        chosen = PurgeFilter(word(pb.JobState, asked.state), asked.kind, _moment(asked, "created_before"))
        if request.dry_run:
            ids, more = await self._control.purgeable(UUID(request.tenant_id), chosen, limit)
            return pb.PurgeJobsResponse(purged=len(ids), more=more, sample_job_ids=ids[:SAMPLE])
        done = await self._control.purge(step_of(request), chosen, limit)
        return pb.PurgeJobsResponse(purged=done.count, more=done.more)

    async def SetJobPriority(self, request: pb.SetJobPriorityRequest, context: Any) -> pb.SetJobPriorityResponse:
        rank = request.rank if request.HasField("rank") else None
        changed = await self._control.set_priority(step_of(request), list(request.job_ids), request.priority, rank)
        skipped = sorted(set(request.job_ids).difference(changed))
        return pb.SetJobPriorityResponse(changed=len(changed), skipped_job_ids=skipped)


def _check_either(request: pb.RedriveJobsRequest) -> None:
    if request.HasField("filter"):
        if request.job_ids:
            raise InvalidArgument("There are job_ids already; give one of the two.", field="filter")
        return
    if not request.job_ids:
        raise InvalidArgument("Give job_ids, or a filter.", field="job_ids")
    if request.max_jobs:
        raise InvalidArgument("It bounds a filter; job_ids bound themselves.", field="max_jobs")


def _dead_filter(asked: pb.DeadJobFilter) -> DeadFilter:
    after, before = (_moment(asked, field) for field in ("finished_after", "finished_before"))
    if after is not None and before is not None and before <= after:
        raise InvalidArgument("It is not later than finished_after.", field="filter.finished_before")
    return DeadFilter(asked.kind, asked.error_prefix, after, before)


def _moment(asked: Any, field: str) -> datetime | None:
    try:
        return when(asked, field)
    except InvalidArgument as fault:
        raise InvalidArgument(fault.message, field=f"filter.{field}") from None
