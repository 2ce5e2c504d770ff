"""Jobs between the wire and the domain."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_chassis.errors import item_error
from penguin_chassis.faults import Fault, InvalidArgument
from penguin_chassis.wire import number, stamp, when
from penguin_queue.domain.jobs import (
    WAITING,
    Attempt,
    Failure,
    Job,
    LeaseRef,
    Lot,
    NewBatch,
    NewJob,
    Progress,
    QueueCount,
    Snooze,
)
from penguin_queue.operations.streams import Reply, Start, Words
from penguin_queue.servicers.ties_wire import members, ties
from penguin_queue.store.jobs import LAST

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Later than every attempt.
LAST_ATTEMPT = (datetime(9999, 1, 1, tzinfo=UTC), 0)


def new_job(index: int, item: pb.NewJob) -> NewJob:
    """An item of an enqueue. Priorities have the contract's numbers."""
    return NewJob(
        kind=item.kind,
        payload=item.payload,
        priority=item.priority,
        rank=item.rank,
        run_at=when(item, "run_at"),
        max_attempts=item.max_attempts,
        traceparent=item.traceparent,
        rate_key=item.rate_key,
        ties=ties(index, item),
    )


def new_batch(request: pb.EnqueueBatchRequest) -> NewBatch:
    """A batch that differs by its payloads alone; raises InvalidArgument for columns of different lengths."""
    traceparents = list(request.traceparents)
    if len(traceparents) == 1:
        traceparents *= len(request.payloads)
    if traceparents and len(traceparents) != len(request.payloads):
        raise InvalidArgument("There is one for each job, one for all, or none.", field="traceparents")
    return NewBatch(
        kind=request.kind,
        payloads=list(request.payloads),
        priority=request.priority,
        rank=request.rank,
        run_at=when(request, "run_at"),
        max_attempts=request.max_attempts,
        traceparents=traceparents,
        rate_key=request.rate_key,
        ordering_key=request.ordering_key,
        members=members(request.batch) if request.HasField("batch") else None,
    )


def place(key: list[Any]) -> int:
    """Where a page of jobs begins; raises ValueError."""
    (before,) = key
    if type(before) is not int or not 0 < before <= LAST:
        raise ValueError("no job id")
    return before


def enqueued(answer: int | Fault) -> pb.EnqueueJobResult:
    """The answer to one item of an enqueue."""
    if isinstance(answer, Fault):
        return pb.EnqueueJobResult(error=item_error(answer))
    return pb.EnqueueJobResult(job_id=abs(answer), duplicate=answer < 0)


def job(row: Job) -> pb.Job:
    """A job, wherever it stands."""
    return pb.Job(
        id=row.id,
        tenant_id=str(row.tenant_id),
        kind=row.kind,
        payload=row.payload,
        priority=row.priority,  # type: ignore[arg-type]
        state=number(pb.JobState, "ready" if row.state in WAITING else row.state),
        run_at=stamp(row.run_at),
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        lost_leases=row.lost_leases,
        snoozes=row.snoozes,
        created_at=stamp(row.created_at),
        leased_until=stamp(row.leased_until),
        finished_at=stamp(row.finished_at),
        last_error=row.last_error,
        traceparent=row.traceparent,
        rank=row.rank,
        cancel_wanted=row.cancel_wanted,
        progress=None if row.progress is None else _progress(row.id, row.progress),
        result=row.result,
        ordering_key=row.ordering_key or "",
        rate_key=row.rate_key or "",
        waits=row.waits or 0,
        callback_job_id=row.batch_id or 0,
        batch=None if row.batch is None else pb.BatchProgress(**asdict(row.batch)),
    )


def _progress(job_id: int, told: Progress) -> pb.JobProgress:
    return pb.JobProgress(job_id=job_id, done=told.done, total=told.total, note=told.note, told_at=stamp(told.at))


def progress(items: Sequence[pb.JobProgress], ids: Collection[int]) -> dict[int, Progress]:
    """What is told of jobs, by their ids; raises InvalidArgument for one that is not among `ids`, which are extended."""
    _check_among(items, ids, "progress", "extended")
    return {item.job_id: Progress(item.done, item.total, item.note) for item in items}


def results(items: Sequence[pb.JobResult], ids: Collection[int]) -> dict[int, str]:
    """Where to find what came of jobs, by their ids; raises InvalidArgument for one not among `ids`, which are completed."""
    _check_among(items, ids, "results", "completed")
    return {item.job_id: item.result for item in items}


def _check_among(items: Sequence[Any], ids: Collection[int], field: str, said: str) -> None:
    there = set(ids) if items else set()
    for i, item in enumerate(items):
        if item.job_id not in there:
            raise InvalidArgument(f"The job is not among those {said}.", field=f"{field}[{i}].job_id")


def attempt(row: Attempt) -> pb.JobAttempt:
    """An entry of a job's log of attempts."""
    return pb.JobAttempt(
        attempt=row.number,
        finished_at=stamp(row.finished_at),
        outcome=number(pb.AttemptOutcome, row.outcome),
        error=row.error,
        message=row.message,
        worker_id=row.worker_id,
    )


def attempt_place(key: list[Any]) -> tuple[datetime, int]:
    """Where a page of attempts begins; raises ValueError."""
    micros, before = key
    if type(micros) is not int or type(before) is not int or not 0 < before < 1000 or not 0 < micros < 2**56:
        raise ValueError("no attempt")
    return _EPOCH + timedelta(microseconds=micros), before


def attempt_key(row: Attempt) -> list[int]:
    """Where the page after this entry begins."""
    return [(row.finished_at - _EPOCH) // timedelta(microseconds=1), row.number]


def leased(row: Job) -> pb.LeasedJob:
    """A job in a worker's hands."""
    return pb.LeasedJob(job=job(row), lease_token=row.lease_token or 0)


def lease_ref(ref: pb.LeaseRef) -> LeaseRef:
    """A job and the lease under which the caller speaks of it."""
    return LeaseRef(ref.job_id, ref.lease_token)


def failure(item: pb.JobFailure) -> Failure:
    """An item of FailJobs."""
    delay = item.retry_delay.ToTimedelta() if item.HasField("retry_delay") else None
    return Failure(lease_ref(item.lease), item.error, item.retryable, delay, random.random(), item.message)


def snooze(item: pb.JobSnooze) -> Snooze:
    """An item of SnoozeJobs."""
    return Snooze(lease_ref(item.lease), item.delay.ToTimedelta(), item.reason)


def lost(leases: Sequence[LeaseRef], held: Collection[LeaseRef]) -> list[int]:
    """Ids of the jobs whose lease is no longer the caller's, each once, in the caller's order."""
    return list(dict.fromkeys(ref.job_id for ref in leases if ref not in held))


def count(row: QueueCount) -> pb.QueueCount:
    """One figure of the statistics."""
    return pb.QueueCount(state=number(pb.JobState, row.state), priority=row.priority, count=row.count)  # type: ignore[arg-type]


def start(first: pb.WorkJobsRequest | None) -> Start:
    """What a stream of work begins with; raises InvalidArgument for anything else."""
    if first is None or not first.HasField("start"):
        raise InvalidArgument("A stream of work begins with its start.", field="start")
    asked = first.start
    kinds = tuple(sorted(set(asked.kinds)))
    return Start(kinds, asked.max_in_flight, asked.lease_duration.ToTimedelta(), asked.worker_id)


async def words(requests: AsyncIterator[pb.WorkJobsRequest]) -> AsyncIterator[Words]:
    """What a worker says after its start."""
    async for request in requests:
        if request.HasField("start"):
            raise InvalidArgument("A stream of work is started once.", field="start")
        completed, extended = _columns(request.completed, "completed"), _columns(request.extended, "extended")
        _make_storable(request)
        yield Words(
            request.number,
            completed=completed,
            failures=list(map(failure, request.failures)),
            snoozes=list(map(snooze, request.snoozes)),
            extended=extended,
            released=_columns(request.released, "released"),
            progress=progress(request.progress, extended[0]),
            results=results(request.results, completed[0]),
        )


def _make_storable(words: pb.WorkJobsRequest) -> None:
    """Leave out what PostgreSQL cannot store: to refuse it would end the stream, with the words on other tenants' jobs."""
    for failure in words.failures:
        failure.error = failure.error.replace("\0", "") or "unnamed"
        failure.message = failure.message.replace("\0", "")
    for snooze in words.snoozes:
        snooze.reason = snooze.reason.replace("\0", "")
    for told in words.progress:
        told.note = told.note.replace("\0", "")
    # What is left of a reference would be another one.
    for each in [each for each in words.results if "\0" in each.result]:
        words.results.remove(each)


def _columns(leases: pb.Leases, field: str) -> tuple[list[int], list[int]]:
    ids, tokens = list(leases.job_ids), list(leases.lease_tokens)
    if len(tokens) == 1:
        tokens *= len(ids)
    if len(ids) != len(tokens):
        raise InvalidArgument("There is one token for each job, or one for all.", field=f"{field}.lease_tokens")
    return ids, tokens


def reply(said: Reply) -> pb.WorkJobsResponse:
    """Jobs to be done, or the answer to words."""
    if isinstance(said, list):
        return pb.WorkJobsResponse(jobs=map(lot, said))
    return pb.WorkJobsResponse(
        answer=pb.WorkAnswer(
            number=said.number, lost_job_ids=said.lost, leased_until=stamp(said.until), completed=said.completed,
            retried=said.retried, dead=said.dead, snoozed=said.snoozed, released=said.released,
            cancelled_job_ids=said.cancelling, cancelled=said.cancelled, draining=said.draining,
        )
    )  # fmt: skip


def lot(jobs: Lot) -> pb.LeasedJobs:
    """Leased jobs as columns; one traceparent stands for all where they are the same."""
    traceparents = set(jobs.traceparents)
    return pb.LeasedJobs(
        tenant_id=str(jobs.tenant_id),
        kind=jobs.kind,
        priority=jobs.priority,  # type: ignore[arg-type]
        lease_token=jobs.token,
        leased_until=stamp(jobs.until),
        job_ids=jobs.ids,
        payloads=jobs.payloads,
        created_at_micros=_micros(jobs.created_at),
        attempts=jobs.attempts,
        lost_leases=jobs.lost_leases,
        snoozes=jobs.snoozes,
        max_attempts=jobs.max_attempts,
        traceparents=() if traceparents <= {""} else traceparents if len(traceparents) == 1 else jobs.traceparents,
    )


def _micros(times: Sequence[datetime]) -> Iterator[int]:
    # The jobs of a batch share their time, and stand together.
    last, micros = None, 0
    for at in times:
        if at != last:
            last, micros = at, round(at.timestamp() * 1_000_000)
        yield micros
