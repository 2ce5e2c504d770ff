"""Ties between jobs, from the wire to the domain."""

from __future__ import annotations

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_chassis.faults import InvalidArgument
from penguin_queue.domain.jobs import Members, NewJob
from penguin_queue.domain.ties import COMPLETED, DEAD, LEASED, WAITING, Ties, Unique

_BITS = {
    pb.JOB_STATE_READY: WAITING,
    pb.JOB_STATE_LEASED: LEASED,
    pb.JOB_STATE_COMPLETED: COMPLETED,
    pb.JOB_STATE_DEAD: DEAD,
}


def ties(index: int, item: pb.NewJob) -> Ties | None:
    """What the item of this index has to do with other jobs; raises InvalidArgument where it waits for a later one."""
    after = tuple(item.waits_for_items)
    for i, each in enumerate(after):
        if each >= index:
            raise InvalidArgument("It is no earlier item of this call.", field=f"jobs[{index}].waits_for_items[{i}]")
    unique = _unique(item.unique) if item.HasField("unique") else None
    found = Ties(unique, item.ordering_key, tuple(item.waits_for), after, item.run_if_failed)
    return None if found == Ties(run_if_failed=item.run_if_failed) else found


def _unique(asked: pb.UniqueKey) -> Unique:
    holds = sum(_BITS[state] for state in asked.holds_while) or WAITING | LEASED
    holds_for = asked.holds_for.ToTimedelta() if asked.HasField("holds_for") else None
    return Unique(asked.key, holds, holds_for, replace=asked.on_conflict == pb.ON_CONFLICT_REPLACE)


def members(asked: pb.JobBatch) -> Members:
    """What the jobs of a call are members of."""
    if not asked.HasField("callback"):
        return Members(None, asked.callback_job_id, asked.more)
    job = asked.callback
    callback = NewJob(job.kind, job.payload, job.priority, job.rank, None, job.max_attempts, job.traceparent)
    return Members(callback, 0, asked.more)
