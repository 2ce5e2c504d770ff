"""Requests that Queue's tests begin with."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from google.protobuf.duration_pb2 import Duration

from penguin.queue.v1 import queue_service_pb2 as pb


def seconds(amount: float) -> Duration:
    """A duration."""
    duration = Duration()
    duration.FromMilliseconds(int(amount * 1000))
    return duration


def new_job(**fields: Any) -> pb.NewJob:
    """A right item of an enqueue."""
    right = {"request_id": str(uuid4()), "kind": "test.run", "payload": b'{"n":1}'}
    return pb.NewJob(**right | fields)


def enqueue_request(tenant: UUID | str, *jobs: pb.NewJob, **fields: Any) -> pb.EnqueueJobsRequest:
    """An enqueue."""
    return pb.EnqueueJobsRequest(tenant_id=str(tenant), jobs=jobs, **fields)


def batch_request(tenant: UUID | str, kind: str, *payloads: bytes, **fields: Any) -> pb.EnqueueBatchRequest:
    """An enqueue by columns."""
    right: dict[str, Any] = {"request_id": str(uuid4()), "payloads": payloads or [b'{"n":1}', b'{"n":2}']}
    return pb.EnqueueBatchRequest(tenant_id=str(tenant), kind=kind, **(right | fields))


def lease_request(*kinds: str, max_jobs: int = 10, lease_s: float = 30, wait_s: float = 0) -> pb.LeaseJobsRequest:
    """A lease."""
    return pb.LeaseJobsRequest(
        kinds=kinds, max_jobs=max_jobs, lease_duration=seconds(lease_s), wait=seconds(wait_s), worker_id="test"
    )


def ref_of(leased: pb.LeasedJob) -> pb.LeaseRef:
    """The lease under which a leased job is spoken of."""
    return pb.LeaseRef(job_id=leased.job.id, lease_token=leased.lease_token)
