"""Producers' side of the queue: many jobs of a kind as columns, single ones grouped with those that come beside them.

Jobs that differ by their keys go as rows, each with its own answer; what has no keys goes as columns, which cost least."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import grpc

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.jsonbytes import json_bytes
from penguin_chassis.outbox import traceparent
from penguin_chassis.parting import parted
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.coalescing import Coalescer
from penguin_orchestrator.enqueueing import EnqueueStreams
from penguin_orchestrator.errors import TierError, item_failure

DEADLINE_S = 30.0
PER_CALL = 1000
# Payloads that go together (bytes): a message has 4 MiB.
TOGETHER_MAX = 2 * 1024 * 1024
CALL_MAX = 3 * 1024 * 1024
PRIORITIES = ("high", "normal", "low")
# Where a job can stand for its unique key to hold.
HOLDING = frozenset({"ready", "leased", "completed", "dead"})


# Fewer than so many on the same keys go as rows, together with those on others.
COLUMNS_MIN = 10


@dataclass(frozen=True)
class Unique:
    """A key that one job of its tenant and kind has: for as long as that stands where `holds_while` says (ready, leased,
    completed, dead; none: ready and leased), and for `holds_for` at most. Another is not stored; with `replace`
    the one that has the key, if it still waits, gets the payload, time, priority, rank and attempts of the other."""

    key: str
    holds_while: tuple[str, ...] = ()
    holds_for: timedelta | None = None
    replace: bool = False

    def __post_init__(self) -> None:
        if not HOLDING.issuperset(self.holds_while):
            raise ValueError(f"a unique key holds while its job is one of {', '.join(sorted(HOLDING))}")


@dataclass(frozen=True)
class Terms:
    """How jobs are run: `priority` is high, normal or low, `rank` orders within it (lower first); no `run_at` means now.

    Jobs of a `rate_key` share its rate; those of an `ordering_key` are run one at a time, in order. `after` are numbers of
    jobs to be completed first, or, with `run_if_failed`, to be over. Raises ValueError for a word that is none of these.
    """

    kind: str
    priority: str = "normal"
    rank: int = 0
    run_at: datetime | None = None
    max_attempts: int = 0
    rate_key: str = ""
    ordering_key: str = ""
    unique: Unique | None = None
    after: tuple[int, ...] = ()
    run_if_failed: bool = False

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ValueError(f"a priority is one of {', '.join(PRIORITIES)}")

    @property
    def single(self) -> bool:
        """Whether they hold for one job, and cannot be said of many at once."""
        return self.unique is not None or bool(self.after)

    @property
    def keyed(self) -> bool:
        """Whether the next job may well have others."""
        return bool(self.rate_key or self.ordering_key) or self.single


@dataclass(frozen=True)
class NewJob:
    """One of several different jobs; `after_items` are indexes of those before it in the call that are to be completed first."""

    terms: Terms
    payload: Mapping[str, Any]
    after_items: tuple[int, ...] = ()


@dataclass(frozen=True)
class Callback:
    """The job that runs when all of a batch are over. Of its terms neither a time nor keys are asked for."""

    terms: Terms
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """Jobs that a callback waits for, and its number: further ones may be added under it."""

    jobs: range
    callback_id: int


class Duplicate(int):
    """The number of the job that has the unique key: nothing was stored."""


class _Single(NamedTuple):
    terms: Terms
    payload: bytes
    traceparent: str
    # Its caller's own, under which it may be asked again: such a one goes as a row, for columns have one for all of them.
    request_id: UUID | None = None


Answer = int | TierError
_Send = Callable[[UUID, Sequence[_Single]], Awaitable[list[Answer]]]


def _bodies(payloads: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Payloads of one call as they travel. Raises ValueError where a message could not take them."""
    bodies = list(map(json_bytes, payloads))
    if (size := sum(map(len, bodies))) > CALL_MAX:
        raise ValueError(f"The payloads take {size} bytes, and a call at most {CALL_MAX}: make several calls.")
    return bodies


def _alike(single: _Single) -> tuple[Terms, bool]:
    """What singles that go together have in common: their terms, and whether they are known by ids of their own."""
    return single.terms, single.request_id is not None


def _size(single: _Single) -> int:
    return len(single.payload)


class Jobs:
    """Enqueues jobs of any tenant. A job is durable when its number is returned."""

    def __init__(self, queue: Tier) -> None:
        self._queue = queue
        self._streams = EnqueueStreams(queue)
        self._singles: Coalescer[_Single, Answer] = Coalescer(self._together, batch=PER_CALL, parallel=2, size=_size)

    async def enqueue(
        self, tenant_id: UUID, terms: Terms, payload: Mapping[str, Any], *, request_id: UUID | None = None
    ) -> int:
        """Enqueue one job, together with those enqueued beside it; its number, or as Duplicate that of the job which has its
        unique key.

        Nobody waits for a clock: a call that finds fewer than two batches under way leaves at once. Raises TierError as
        enqueue_many does, and BacklogFullError while too many of the tenant wait here, or too large ones of all. Where its
        outcome is unknown, the same call with the same `request_id` tells.
        """
        answer = await self._singles.put(tenant_id, _Single(terms, json_bytes(payload), traceparent(), request_id))
        if isinstance(answer, TierError):
            raise answer
        return answer

    async def enqueue_many(
        self, tenant_id: UUID, terms: Terms, payloads: Sequence[Mapping[str, Any]], *, request_id: UUID | None = None
    ) -> range:
        """Enqueue up to 5000 jobs, all or none; their numbers, in the order of the payloads.

        Raises ValueError for terms of single jobs and for payloads of more than 3 MiB together, and TierError. Where its outcome is unknown, the same call with the same
        `request_id` tells.
        """
        bodies = _bodies(payloads)
        return _numbers(
            await self._call(_columns(tenant_id, request_id or keys.new_id(), terms, bodies, [traceparent()]))
        )

    async def enqueue_batch(
        self,
        tenant_id: UUID,
        terms: Terms,
        payloads: Sequence[Mapping[str, Any]],
        over: Callback | int,
        *,
        more: bool = False,
        request_id: UUID | None = None,
    ) -> Batch:
        """As enqueue_many, and when all of them are over, however they ended, the callback runs once. With `more` it waits
        for a later call, which names it by its number. Raises as enqueue_many does."""
        bodies = _bodies(payloads)
        request = _columns(tenant_id, request_id or keys.new_id(), terms, bodies, [traceparent()])
        request.batch.more = more
        if isinstance(over, int):
            request.batch.callback_job_id = over
        else:
            request.batch.callback.CopyFrom(_callback(over))
        reply = await self._call(request)
        return Batch(_numbers(reply), reply.callback_job_id)

    async def enqueue_each(
        self, tenant_id: UUID, jobs: Sequence[NewJob], *, request_id: UUID | None = None
    ) -> list[Answer]:
        """Enqueue up to 1000 jobs on terms of their own, in one call; to each its number, as Duplicate where another has its
        unique key, or why it was not stored. Raises TierError as enqueue_many does."""
        known = request_id or keys.new_id()
        rows = []
        for n, job in enumerate(jobs):
            single = _Single(job.terms, json_bytes(job.payload), traceparent())
            rows.append(_row(single, keys.request_id("jobs", known, n), job.after_items))
        return await self._send_rows(tenant_id, rows)

    async def close(self) -> None:
        """Wait for what is on its way."""
        await self._singles.close()
        await self._streams.close()

    async def _together(self, tenant_id: UUID, singles: Sequence[_Single]) -> list[Answer]:
        """A call for each run of singles on the same terms, mostly one, and for each run of those with keys; to each single
        its own number or error."""
        answers: list[Answer] = []
        keyed: list[_Single] = []
        for (terms, named), group in itertools.groupby(singles, key=_alike):
            alike = list(group)
            if named or (terms.keyed and (terms.single or len(alike) < COLUMNS_MIN)):
                keyed += alike
                continue
            for part in parted(keyed, _size, TOGETHER_MAX):
                answers += await self._apart(tenant_id, part, self._as_rows)
            keyed = []
            for part in parted(alike, _size, TOGETHER_MAX):
                answers += await self._apart(tenant_id, part, self._as_columns)
        for part in parted(keyed, _size, TOGETHER_MAX):
            answers += await self._apart(tenant_id, part, self._as_rows)
        return answers

    async def _apart(self, tenant_id: UUID, singles: Sequence[_Single], send: _Send) -> list[Answer]:
        """The answers; each for itself where one of them is against the contract."""
        try:
            return await send(tenant_id, singles)
        except TierError as error:
            if error.code is not grpc.StatusCode.INVALID_ARGUMENT or len(singles) == 1:
                return [error] * len(singles)
        # Nothing was stored, for one of them is wrong. The others are not to suffer for it.
        return [answer for each in singles for answer in await self._apart(tenant_id, [each], send)]

    async def _as_columns(self, tenant_id: UUID, singles: Sequence[_Single]) -> list[Answer]:
        payloads, traces = [each.payload for each in singles], [each.traceparent for each in singles]
        request = _columns(tenant_id, keys.new_id(), singles[0].terms, payloads, traces)
        return list(_numbers(await self._streams.send(tenant_id, request, self._call)))

    async def _as_rows(self, tenant_id: UUID, singles: Sequence[_Single]) -> list[Answer]:
        return await self._send_rows(tenant_id, [_row(each, each.request_id or keys.new_id()) for each in singles])

    async def _send_rows(self, tenant_id: UUID, rows: Sequence[pb.NewJob]) -> list[Answer]:
        method = self._queue.stub(QueueServiceStub).EnqueueJobs
        request = pb.EnqueueJobsRequest(tenant_id=str(tenant_id), jobs=rows)
        reply: pb.EnqueueJobsResponse = await self._queue.insist(method, request, deadline_s=DEADLINE_S)
        return [_answer(self._queue.name, result) for result in reply.results]

    async def _call(self, request: pb.EnqueueBatchRequest) -> pb.EnqueueBatchResponse:
        method = self._queue.stub(QueueServiceStub).EnqueueBatch
        reply: pb.EnqueueBatchResponse = await self._queue.insist(method, request, deadline_s=DEADLINE_S)
        return reply


def _priority(word: str) -> pb.JobPriority.ValueType:
    return pb.JobPriority.Value(f"JOB_PRIORITY_{word.upper()}")


def _columns(
    tenant_id: UUID, request_id: UUID, terms: Terms, payloads: Sequence[bytes], traceparents: Sequence[str]
) -> pb.EnqueueBatchRequest:
    if terms.single:
        raise ValueError("a unique key, or what a job waits for, is said of jobs one by one")
    request = pb.EnqueueBatchRequest(
        tenant_id=str(tenant_id),
        request_id=str(request_id),
        kind=terms.kind,
        payloads=payloads,
        priority=_priority(terms.priority),
        rank=terms.rank,
        max_attempts=terms.max_attempts,
        traceparents=traceparents if any(traceparents) else (),
        rate_key=terms.rate_key,
        ordering_key=terms.ordering_key,
    )
    if terms.run_at is not None:
        request.run_at.FromDatetime(terms.run_at)
    return request


def _numbers(reply: pb.EnqueueBatchResponse) -> range:
    return range(reply.first_job_id, reply.first_job_id + reply.count)


def _callback(over: Callback) -> pb.BatchCallback:
    terms = over.terms
    if terms.keyed or terms.run_at is not None:
        raise ValueError("a callback has neither a time nor keys")
    return pb.BatchCallback(
        kind=terms.kind, payload=json_bytes(over.payload), priority=_priority(terms.priority), rank=terms.rank,
        max_attempts=terms.max_attempts, traceparent=traceparent(),
    )  # fmt: skip


def _row(single: _Single, request_id: UUID, after_items: Sequence[int] = ()) -> pb.NewJob:
    terms = single.terms
    row = pb.NewJob(
        request_id=str(request_id),
        kind=terms.kind,
        payload=single.payload,
        priority=_priority(terms.priority),
        rank=terms.rank,
        max_attempts=terms.max_attempts,
        traceparent=single.traceparent,
        rate_key=terms.rate_key,
        ordering_key=terms.ordering_key,
        waits_for=terms.after,
        waits_for_items=after_items,
        run_if_failed=terms.run_if_failed,
    )
    if terms.run_at is not None:
        row.run_at.FromDatetime(terms.run_at)
    if (unique := terms.unique) is not None:
        row.unique.key = unique.key
        row.unique.holds_while.extend(pb.JobState.Value(f"JOB_STATE_{word.upper()}") for word in unique.holds_while)
        if unique.holds_for is not None:
            row.unique.holds_for.FromTimedelta(unique.holds_for)
        row.unique.on_conflict = pb.ON_CONFLICT_REPLACE if unique.replace else pb.ON_CONFLICT_KEEP
    return row


def _answer(tier: str, result: pb.EnqueueJobResult) -> Answer:
    if result.WhichOneof("outcome") == "error":
        return item_failure(tier, result.error)
    return Duplicate(result.job_id) if result.duplicate else result.job_id
