"""What the queue is told of jobs: verdicts as the contract takes them, each made by itself. One that cannot be said is a failure
of its own job, for the words beside it belong to other jobs, and other tenants."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_worker.jobs import Job, Reject, Release, Retry, Snooze, Verdict, storable

log = logging.getLogger(__name__)

Said = tuple[Job, Verdict]
# The contract's limits.
ERROR_MAX = 500
MESSAGE_MAX = 1000
RESULT_MAX = 500
DELAY_MAX_S = 7 * 24 * 3600.0
# What is said instead of an error that cannot be.
UNSAYABLE = "defect.unsayable"
_named = re.compile(r"(failures|snoozes|results)\[(\d+)\]")


def words_of(said: Sequence[Said], bare: Collection[Job] = ()) -> pb.WorkJobsRequest:
    """What became of jobs, as the stream is told; of those in `bare` without any text that a handler gave."""
    words = pb.WorkJobsRequest()
    done = [job for job, verdict in said if verdict is None]
    words.completed.job_ids.extend([job.id for job in done])
    words.completed.lease_tokens.extend([job.lease_token for job in done])
    for job in done:
        if job.result and job not in bare:
            _add_result(words, job)
    for job, verdict in said:
        if verdict is None:
            continue
        try:
            _add(words, job, verdict, bare=job in bare)
        except Exception:
            log.exception("a verdict on a job of %s cannot be said", job.kind, extra={"detail": str(job.id)})
            words.failures.append(pb.JobFailure(lease=_lease(job), error=UNSAYABLE, retryable=True))
    return words


def named(words: pb.WorkJobsRequest, field: str) -> int | None:
    """The id of the job whose word a refusal of these words means by this field; None where it means no single one."""
    match = _named.match(field)
    if match is None:
        return None
    items, place = getattr(words, match[1]), int(match[2])
    if place >= len(items):
        return None
    job_id: int = items[place].job_id if match[1] == "results" else items[place].lease.job_id
    return job_id


def _add(words: pb.WorkJobsRequest, job: Job, verdict: Verdict, *, bare: bool) -> None:
    # Whatever raises does so before anything is added.
    if isinstance(verdict, Snooze):
        reason, delay = "" if bare else storable(verdict.error)[:ERROR_MAX], _milliseconds(verdict.delay_s)
        words.snoozes.add(lease=_lease(job), reason=reason).delay.FromMilliseconds(delay)
    elif isinstance(verdict, Retry | Reject):
        error = UNSAYABLE if bare else storable(verdict.error)[:ERROR_MAX] or "unnamed"
        message = "" if bare else storable(verdict.message)[:MESSAGE_MAX]
        said_s = verdict.delay_s if isinstance(verdict, Retry) else None
        retry_delay = None if said_s is None else _milliseconds(said_s)
        failure = words.failures.add(
            lease=_lease(job), error=error, message=message, retryable=isinstance(verdict, Retry)
        )
        if retry_delay is not None:
            failure.retry_delay.FromMilliseconds(retry_delay)
    elif isinstance(verdict, Release):
        words.released.job_ids.append(job.id)
        words.released.lease_tokens.append(job.lease_token)
    else:
        raise TypeError(f"the queue has no word for {type(verdict).__name__}")


def _lease(job: Job) -> pb.LeaseRef:
    return pb.LeaseRef(job_id=job.id, lease_token=job.lease_token)


def _add_result(words: pb.WorkJobsRequest, job: Job) -> None:
    result: object = job.result
    said = result.encode(errors="replace") if isinstance(result, str) else b"\0"
    if len(said) > RESULT_MAX or b"\0" in said:
        # What is done is done: refusing it would do it again.
        log.error("a result of %s is no reference: it is left out", job.kind, extra={"detail": str(job.id)})
    else:
        words.results.add(job_id=job.id, result=said.decode())


def _milliseconds(delay_s: float) -> int:
    return int(min(max(delay_s, 0.0), DELAY_MAX_S) * 1000)
