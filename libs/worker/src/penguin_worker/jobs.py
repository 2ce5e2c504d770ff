"""A leased job as its handler has it, and what a handler may say of it. Knows nothing of how jobs are leased."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penguin.queue.v1 import queue_service_pb2 as pb

_propagator = TraceContextTextMapPropagator()


class NotDone(Exception):
    """A job was not done; `error` is a short class, never the text of an exception."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class Retry(NotDone):
    """The attempt failed and counts; try again after `delay_s` seconds, or after the queue's own back-off."""

    def __init__(self, error: str, delay_s: float | None = None) -> None:
        super().__init__(error)
        self.delay_s = delay_s


class Snooze(NotDone):
    """Nothing is wrong with the job: come back in `delay_s` seconds; no attempt is counted."""

    def __init__(self, error: str, delay_s: float) -> None:
        super().__init__(error)
        self.delay_s = delay_s


class Away(NotDone):
    """What its kind needs is away: put off without counting an attempt, and the kind is left alone for a while."""


class Reject(NotDone):
    """No further attempt would help: a dead letter."""


Verdict = NotDone | None  # None: done


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
    on_settled: Callable[[Job, Verdict], None] = field(default=lambda job, verdict: None, repr=False)
    # What stops its handler when the lease is lost.
    cancel: Callable[[], object] | None = field(default=None, repr=False)
    # Begun beyond recall: at a stop it is left to its lease rather than handed back.
    committed: bool = False
    lost: bool = False
    settled: bool = False

    @classmethod
    def of(cls, leased: pb.LeasedJob, lease_until: float) -> Job:
        """From the wire; a payload that is no JSON object reads as an empty one."""
        job = leased.job
        try:
            payload = orjson.loads(job.payload or b"{}")
        except orjson.JSONDecodeError:
            payload = {}
        return cls(
            id=job.id,
            tenant_id=UUID(job.tenant_id),
            kind=job.kind,
            payload=payload if isinstance(payload, dict) else {},
            lease_token=leased.lease_token,
            lease_until=lease_until,
            attempts=job.attempts,
            max_attempts=job.max_attempts or 10,
            snoozes=job.snoozes,
            lost_leases=job.lost_leases,
            traceparent=job.traceparent,
            created_at=job.created_at.ToDatetime(UTC),
        )

    @property
    def held(self) -> bool:
        """Whether no other worker can have it yet, as far as we can know."""
        return not self.lost and time.monotonic() < self.lease_until

    @property
    def last_attempt(self) -> bool:
        """Whether a failure now leaves no attempt."""
        return self.attempts + 1 >= self.max_attempts

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

    def lease(self) -> pb.LeaseRef:
        """How the queue is told of which lease we speak."""
        return pb.LeaseRef(job_id=self.id, lease_token=self.lease_token)

    def origin(self) -> tuple[Context | None, list[Link]]:
        """The first try continues its producer's trace; a later one begins its own, linked to it."""
        if not self.traceparent:
            return None, []
        context = _propagator.extract({"traceparent": self.traceparent})
        if self.attempts == self.lost_leases == self.snoozes == 0:
            return context, []
        return Context(), [Link(trace.get_current_span(context).get_span_context())]


# Handles jobs of one kind and one tenant together, and settles each; what it raises is said of those it left unsettled.
Handler = Callable[[Sequence[Job]], Awaitable[None]]


def one_by_one(handle: Callable[[Job], Awaitable[None]]) -> Handler:
    """A handler of single jobs: returning is done, raising NotDone is not."""

    async def handler(jobs: Sequence[Job]) -> None:
        for job in jobs:
            await handle(job)
            job.settle()

    return handler


@dataclass(frozen=True)
class Kind:
    """How jobs of a kind are run: `together` in groups of one tenant, or each in a task of its own."""

    handler: Handler
    together: bool = False
