"""The methods of QueueService by which a tenant has a say in its jobs."""

from __future__ import annotations

from typing import Any

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2_grpc
from penguin_chassis.mutations import step_of
from penguin_queue.operations.control import Control


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
