"""A leased job as its handler has it, and what a handler may say of it. Knows nothing of how jobs are leased."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_orchestrator import keys

log = logging.getLogger(__name__)
_propagator = TraceContextTextMapPropagator()
# The contract's limits, and how often the queue is told of one job's progress at most (seconds).
NOTE_MAX = 200
COUNT_MAX = 2**63 - 1
PROGRESS_EVERY_S = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# For how long a job is put off by whom has not said that as a number (seconds).
UNSAID_S = 5.0


def storable(text: str) -> str:
    """A text as the queue can store it: it takes no NUL, and a lone surrogate cannot even be sent."""
    return text if text.isascii() and "\0" not in text else text.replace("\0", "").encode(errors="replace").decode()


def _text(said: object) -> str:
    # An exception's class, never its text.
    return storable(said) if isinstance(said, str) else "" if said is None else type(said).__name__


def _seconds(said: Any) -> float | None:
    try:
        seconds = math.nan if said is None else float(said)
    except (TypeError, ValueError, OverflowError):
        log.error("a handler says a %s for seconds", type(said).__name__)
        return None
    return None if math.isnan(seconds) else seconds


class NotDone(Exception):
    """A job was not done; `error` is a short class, never the text of an exception.

    `message` tells people more of a failure: no personal data, and no exception text of other systems. A handler's slip in
    what it says makes no exception of another kind: what is no text counts by its type, and what is no number as not said.
    """

    def __init__(self, error: str, message: str = "") -> None:
        self.error = _text(error)
        self.message = _text(message)
        super().__init__(self.error)


class Retry(NotDone):
    """The attempt failed and counts; try again after `delay_s` seconds, or after the queue's own back-off."""

    def __init__(self, error: str, delay_s: float | None = None, message: str = "") -> None:
        super().__init__(error, message)
        self.delay_s = _seconds(delay_s)


class Snooze(NotDone):
    """Nothing is wrong with the job: come back in `delay_s` seconds; no attempt is counted."""

    def __init__(self, error: str, delay_s: float) -> None:
        super().__init__(error)
        self.delay_s: float = UNSAID_S if (said := _seconds(delay_s)) is None else said


class Away(NotDone):
    """What its kind needs is away: put off without counting an attempt, and the kind is left alone for a while.

    `after_s`: what is away has said how long that will be (seconds): the job comes no sooner, but after a day at the latest; None
    leaves it to the worker.
    """

    def __init__(self, error: str, after_s: float | None = None) -> None:
        super().__init__(error)
        self.after_s = _seconds(after_s)


class Release(NotDone):
    """It was not begun: given back untouched, ready at once, and nothing counted."""


class Reject(NotDone):
    """No further attempt would help: a dead letter."""


Verdict = NotDone | None  # None: done


@dataclass(frozen=True)
class Done:
    """What a handler may return: where to find what came of its job, a key, an id or a URI of at most 500 bytes."""

    result: str = ""


# What handlers return: a text is a result, nothing is none.
Outcome = Done | str | None


def result_of(outcome: Outcome) -> str:
    """Where to find what came of a job, by what its handler returned; empty: nowhere."""
    said = outcome.result if isinstance(outcome, Done) else outcome
    return said if isinstance(said, str) else ""


@dataclass(frozen=True)
class Progress:
    """How far a job has come: `done` of `total` (0: unknown), in units of its own, and a note for people."""

    done: int
    total: int
    note: str


def _unheard(job: Job, verdict: Verdict) -> None:
    """A verdict that nobody waits for."""


@dataclass(eq=False)
class Job:
    """One leased job. `settle` it once; what is settled twice keeps its first verdict."""

    id: int
    tenant_id: UUID
    kind: str
    payload: Mapping[str, Any]
    lease_token: int
    # Monotonic seconds until which the lease is surely ours.
    lease_until: float
    attempts: int = 0
    max_attempts: int = 10
    snoozes: int = 0
    lost_leases: int = 0
    traceparent: str = ""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    on_settled: Callable[[Job, Verdict], None] = field(default=_unheard, repr=False)
    # What stops its handler when the lease is lost.
    cancel: Callable[[], object] | None = field(default=None, repr=False)
    # Begun beyond recall: at a stop it is left to its lease rather than handed back.
    committed: bool = False
    # Whether a handler of single jobs is, or was, at it: if not, it may be given back as if nothing had happened.
    begun: bool = False
    # Told whenever that changes while its handler runs: its time-out counts from when it is begun.
    on_begun: Callable[[bool], object] | None = field(default=None, repr=False)
    lost: bool = False
    settled: bool = False
    # Where to find what came of it; the queue is told with its completion.
    result: str = ""
    # The latest word on how far it has come, the one that the queue has been told, and when (monotonic seconds).
    _told: Progress | None = field(default=None, repr=False)
    _heard: Progress | None = field(default=None, repr=False)
    _heard_at: float = field(default=-PROGRESS_EVERY_S, repr=False)

    def progress(self, done: int, total: int = 0, note: str = "") -> None:
        """Say how far it has come: `done` of `total` (0: unknown), and a note for people without personal data.

        The queue is told with the next heartbeat, of the latest word alone. May be said in any thread.
        """
        # The queue refuses what it cannot store, and with it the heartbeat.
        note = storable(note)[:NOTE_MAX]
        self._told = Progress(min(max(int(done), 0), COUNT_MAX), min(max(int(total), 0), COUNT_MAX), note)

    def untold(self, now: float) -> Progress | None:
        """What the queue is to be told of its progress at this time (monotonic seconds), if anything."""
        told = self._told
        return None if told is self._heard or now - self._heard_at < PROGRESS_EVERY_S else told

    def heard(self, told: Progress, now: float) -> None:
        """The queue has been told."""
        self._heard, self._heard_at = told, now

    @property
    def held(self) -> bool:
        """Whether it is ours to work on: not settled, and nobody else's as far as we can know. May be asked in any thread."""
        return not self.lost and not self.settled and time.monotonic() < self.lease_until

    @property
    def last_attempt(self) -> bool:
        """Whether a failure now leaves no attempt."""
        return self.attempts + 1 >= self.max_attempts

    @contextlib.contextmanager
    def unbegun(self) -> Iterator[None]:
        """Inside it counts as not begun, whoever was called for it: its handler waits for a place to work at. Left by an exception,
        it was not begun at all."""
        self._begins(False)
        yield
        self._begins(True)

    def _begins(self, begun: bool) -> None:
        self.begun = begun
        if self.on_begun is not None:
            self.on_begun(begun)

    def settle(self, verdict: Verdict = None) -> None:
        """Say what became of it."""
        if not self.settled:
            self.settled = True
            self.on_settled(self, verdict)

    def uuid(self, name: str) -> UUID:
        """An id of the payload; raises Reject where there is none."""
        try:
            return UUID(str(self.payload[name]))
        except (KeyError, ValueError):
            raise Reject("payload_invalid") from None

    def effect_key(self, *parts: object) -> UUID:
        """The idempotency key of an effect of this job, told apart by `parts`: the same at every attempt, so that whoever
        takes request_ids brings it about once."""
        return keys.request_id("effect", self.tenant_id, self.id, *parts)

    def origin(self) -> tuple[Context | None, list[Link]]:
        """The first try continues its producer's trace; a later one begins its own, linked to it."""
        if not self.traceparent:
            return None, []
        context = _producer(self.traceparent)
        if self.attempts == self.lost_leases == self.snoozes == 0:
            return context, []
        return Context(), [Link(trace.get_current_span(context).get_span_context())]


@lru_cache(maxsize=1024)
def _producer(traceparent: str) -> Context:
    """The producer's trace as a context; jobs that were enqueued together share theirs."""
    return _propagator.extract({"traceparent": traceparent})


class _Leased(Job):
    """A job as it came: when it was enqueued, which few handlers ask for, is read when it is asked for."""

    created_at_micros: int

    def __getattr__(self, name: str) -> Any:
        # Asked for what is not there yet, and for nothing else.
        if name == "created_at":
            self.created_at = created_at = _EPOCH + timedelta(microseconds=self.created_at_micros)
            return created_at
        raise AttributeError(name)


def unpacked(
    lot: pb.LeasedJobs, lease_until: float, on_settled: Callable[[Job, Verdict], None] | None = None
) -> list[Job]:
    """The jobs of a lot, in its order; `lease_until` in monotonic seconds. A payload that is no JSON object reads as an
    empty one."""
    count = len(lot.job_ids)
    tenant_id, kind, lease_token = UUID(lot.tenant_id), lot.kind, lot.lease_token
    shared = list(lot.traceparents) or [""]
    traceparents = shared * count if len(shared) == 1 else shared
    # A column of numbers that is left out is all zeros.
    zeros = [0] * count
    columns = zip(
        lot.job_ids,
        _objects(lot.payloads),
        lot.created_at_micros or zeros,
        lot.attempts or zeros,
        lot.lost_leases or zeros,
        lot.snoozes or zeros,
        lot.max_attempts or zeros,
        traceparents,
        strict=True,
    )
    on_settled = on_settled or _unheard
    jobs: list[Job] = []
    for job_id, payload, created_at, attempts, lost_leases, snoozes, max_attempts, traceparent in columns:
        # Not by its constructor: what stays as the class has it need not be set, and that is most of it.
        job = _Leased.__new__(_Leased)
        job.id = job_id
        job.tenant_id = tenant_id
        job.kind = kind
        job.payload = payload
        job.lease_token = lease_token
        job.lease_until = lease_until
        job.created_at_micros = created_at
        job.traceparent = traceparent
        job.max_attempts = max_attempts or 10
        if attempts or lost_leases or snoozes:
            job.attempts, job.lost_leases, job.snoozes = attempts, lost_leases, snoozes
        job.on_settled = on_settled
        jobs.append(job)
    return jobs


def _objects(payloads: Iterable[bytes]) -> list[Mapping[str, Any]]:
    try:
        read = list(map(orjson.loads, payloads))
    except orjson.JSONDecodeError:
        read = [_read(payload) for payload in payloads]
    return [each if type(each) is dict else {} for each in read]


def _read(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
