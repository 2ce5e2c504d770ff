"""Jobs, leases and what a failure means for a job. Pure: times and chance are passed in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from penguin_chassis.faults import InvalidArgument
from penguin_chassis.parting import parted
from penguin_queue.domain.ties import BatchProgress, Ties

LEASE_LOST = "lease_lost"
# Before this a job is to be due: the calendar has an end, and its last moment is read back from the database as no moment.
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
# Waiting, in the store's words; the contract calls both READY.
WAITING = ("scheduled", "ready")


@dataclass(frozen=True)
class NewJob:
    """A job to store. `priority` is 1 (high) to 3 (low), `rank` orders within it; no `run_at` means now.

    Where `priority` or `max_attempts` is 0 the queue of its kind says it.
    """

    kind: str
    payload: bytes
    priority: int
    rank: int
    run_at: datetime | None
    max_attempts: int
    traceparent: str
    # Whose rate it goes by within its queue and tenant: a mailbox, a domain. Empty: none.
    rate_key: str = ""
    ties: Ties | None = None


@dataclass(frozen=True)
class Members:
    """What a call's jobs are members of: a new batch with this callback, or that of a callback stored before. `more` will
    come."""

    callback: NewJob | None
    callback_id: int
    more: bool


@dataclass(frozen=True)
class NewBatch:
    """Many jobs to store that differ by their payloads alone; its fields are those of NewJob."""

    kind: str
    payloads: Sequence[bytes]
    priority: int
    rank: int
    run_at: datetime | None
    max_attempts: int
    # One for each job, or none at all.
    traceparents: Sequence[str]
    ordering_key: str = ""
    members: Members | None = None
    rate_key: str = ""

    @property
    def tied(self) -> bool:
        """Whether its jobs have to do with each other or with others, which takes more than storing them."""
        return bool(self.ordering_key or self.members)

    @property
    def jobs(self) -> list[NewJob]:
        """Each by itself, without what ties it."""
        traces = self.traceparents or [""] * len(self.payloads)
        return [
            NewJob(self.kind, payload, self.priority, self.rank, self.run_at, self.max_attempts, trace, self.rate_key)
            for payload, trace in zip(self.payloads, traces, strict=True)
        ]


@dataclass(frozen=True)
class Progress:
    """How far a worker has come: `done` of `total` (0: unknown) in units of its own, a note for people, and since when."""

    done: int
    total: int
    note: str
    at: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """An attempt that failed or was lost (`outcome`); the first of a job is number 1."""

    number: int
    outcome: str
    error: str
    message: str
    worker_id: str
    finished_at: datetime


@dataclass(frozen=True)
class Job:
    """A job as stored; `state` is scheduled, ready, leased, held, completed, dead, cancelled or discarded."""

    tenant_id: UUID
    id: int
    kind: str
    priority: int
    rank: int
    state: str
    run_at: datetime
    attempts: int
    max_attempts: int
    lost_leases: int
    snoozes: int
    created_at: datetime
    leased_until: datetime | None
    finished_at: datetime | None
    last_error: str
    traceparent: str
    lease_token: int | None
    # Its tenant wishes it to end; only while it is leased.
    cancel_wanted: bool = False
    # Read for workers only.
    payload: bytes = b""
    # Whose rate it goes by, and, read where it is leased, whether it has a place in that line.
    rate_key: str | None = None
    lined: bool = False
    # What its worker has told while at it, and where it says to find what came of it.
    progress: Progress | None = None
    result: str = ""
    # Read for its tenant only, as long as it is not over.
    ordering_key: str | None = None
    waits: int | None = None
    batch_id: int | None = None
    # Of a callback.
    batch: BatchProgress | None = None


@dataclass(frozen=True)
class Ready:
    """A job that can be leased from `run_at` on: what those who wait for it need to know."""

    tenant_id: UUID
    id: int
    kind: str
    priority: int
    run_at: datetime
    rank: int = 0


class LeaseRef(NamedTuple):
    """A job and the lease under which the caller speaks of it."""

    job_id: int
    token: int


# What a job's columns take in a message besides its payload and trace: id, time, counts, lengths (bytes).
JOB_BYTES = 64
_COLUMNS = ("ids", "payloads", "created_at", "max_attempts", "traceparents", "attempts", "lost_leases", "snoozes")


@dataclass(frozen=True)
class Lot:
    """Leased jobs of one tenant, kind, priority and lease, as columns. Columns of counts may be empty: all zeros."""

    tenant_id: UUID
    kind: str
    priority: int
    token: int
    until: datetime
    ids: Sequence[int]
    payloads: Sequence[bytes]
    created_at: Sequence[datetime]
    max_attempts: Sequence[int]
    traceparents: Sequence[str]
    attempts: Sequence[int] = ()
    lost_leases: Sequence[int] = ()
    snoozes: Sequence[int] = ()

    def without(self, ids: Collection[int]) -> Lot:
        """The same but for these."""
        kept = [n for n, job_id in enumerate(self.ids) if job_id not in ids]
        columns: dict[str, Any] = {
            name: [column[n] for n in kept] for name in _COLUMNS if (column := getattr(self, name))
        }
        return replace(self, **columns)

    @cached_property
    def size(self) -> int:
        """About what it takes in a message (bytes)."""
        return sum(map(len, self.payloads)) + sum(map(len, self.traceparents)) + JOB_BYTES * len(self.ids)

    def parts(self, most: int) -> Iterator[Lot]:
        """The same in parts of at most so many bytes, or of one job."""
        if self.size <= most:
            yield self
            return
        traces = self.traceparents or [""] * len(self.ids)
        for places in parted(range(len(self.ids)), lambda n: len(self.payloads[n]) + len(traces[n]) + JOB_BYTES, most):
            yield self._part(places[0], places[-1] + 1)

    def _part(self, first: int, end: int) -> Lot:
        columns: dict[str, Any] = {name: column[first:end] for name in _COLUMNS if (column := getattr(self, name))}
        return replace(self, **columns)


@dataclass(frozen=True)
class Handover:
    """A lease given to a worker that waits, before the jobs it is for are stored."""

    token: int
    until: datetime
    worker_id: str
    # The ids that may come to be leased under it, known before they are: whoever does not learn what became of them gives
    # these back.
    ids: list[int] = field(default_factory=list, compare=False)

    @property
    def leases(self) -> list[LeaseRef]:
        """The leases there may be."""
        return [LeaseRef(job_id, self.token) for job_id in self.ids]


@dataclass(frozen=True)
class Failure:
    """A worker's word on a failed attempt. `chance` in [0, 1) places the retry within its back-off."""

    lease: LeaseRef
    error: str
    retryable: bool
    retry_delay: timedelta | None
    chance: float
    message: str = ""


@dataclass(frozen=True)
class Snooze:
    """A worker's wish to see a job later."""

    lease: LeaseRef
    delay: timedelta
    reason: str


@dataclass(frozen=True)
class DeadFilter:
    """Which dead letters are meant: what is empty leaves none out; `after` is included, `before` is not."""

    kind: str
    error_prefix: str
    after: datetime | None
    before: datetime | None


@dataclass(frozen=True)
class PurgeFilter:
    """Which jobs are to go: `state` is ready, completed, dead, cancelled, held or discarded; no kind or time leaves none out."""

    state: str
    kind: str
    created_before: datetime | None


@dataclass(frozen=True)
class Preview:
    """What a call would do: to how many jobs, some of them, and how many more there are that match."""

    count: int
    sample: Sequence[int]
    remaining: int


@dataclass(frozen=True)
class QueueCount:
    """How many jobs of a tenant are in one state at one priority."""

    state: str
    priority: int
    count: int


@dataclass(frozen=True)
class Backoff:
    """How long a job waits after a failure: by chance up to `base`, doubled with each failure, and never above `cap`."""

    base: timedelta
    cap: timedelta

    def after(self, attempts: int, chance: float) -> timedelta:
        """The wait after the `attempts`-th failure, with full jitter by `chance` in [0, 1)."""
        # The exponent is bounded before the power: even of a day, this often doubled, there is a timedelta.
        longest: timedelta = min(self.cap, self.base * 2 ** min(attempts - 1, 29))
        return longest * chance


def retry_at(failure: Failure, attempts: int, max_attempts: int, at: datetime, backoff: Backoff) -> datetime | None:
    """When a job that failed now for the `attempts`-th time runs again; None makes it a dead letter."""
    if not failure.retryable or attempts >= max_attempts:
        return None
    delay = failure.retry_delay
    return at + (backoff.after(attempts, failure.chance) if delay is None else delay)


def arrived(job: NewJob, at: datetime) -> NewJob:
    """A job as it is stored at that moment; raises InvalidArgument naming what is wrong with it."""
    check_payload(job.payload)
    return job if job.run_at is None else replace(job, run_at=_due(job.run_at, at))


def arrived_batch(batch: NewBatch, at: datetime) -> NewBatch:
    """The same of a batch and its callback, naming the first payload that is no JSON object."""
    for i, payload in enumerate(batch.payloads):
        check_payload(payload, f"payloads[{i}]")
    if batch.members and batch.members.callback is not None:
        check_payload(batch.members.callback.payload, "batch.callback.payload")
    return batch if batch.run_at is None else replace(batch, run_at=_due(batch.run_at, at))


def _due(run_at: datetime, at: datetime) -> datetime | None:
    # A moment that is over counts as now: lanes go by how long their jobs have been due, and no producer may say that his
    # have been so for years.
    if run_at >= LATEST:
        raise InvalidArgument(f"run_at is not before the year {LATEST.year}.", field="run_at")
    return run_at if run_at > at else None


def check_payload(payload: bytes, field: str = "payload") -> None:
    """Raise InvalidArgument naming `field` unless it is one JSON object."""
    try:
        right = isinstance(orjson.loads(payload), dict)
    except ValueError:
        right = False
    if not right:
        raise InvalidArgument("The payload is no JSON object.", field=field)
