"""The journal of acts that cross tiers: who carries a saga out, where it stands, and what it may become. It knows no
definition of any. The clock is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from penguin_chassis.faults import FailedPrecondition, InvalidArgument

RUNNING = "running"
COMPENSATING = "compensating"
SUCCEEDED = "succeeded"
COMPENSATED = "compensated"
STUCK = "stuck"
ABANDONED = "abandoned"
MOVING = frozenset({RUNNING, COMPENSATING})
FINISHED = frozenset({SUCCEEDED, COMPENSATED, ABANDONED})
ACTION = "action"
COMPENSATION = "compensation"
SKIPPED = "skipped"
DONE = frozenset({"done", SKIPPED})
# How old a saga may be for its steps to be asked for again: the tiers remember steps for longer (180 days).
RETRIED_WITHIN = timedelta(days=150)
# How many owners in a row may leave a saga without a word, none of its steps having come further: it may be what ends them.
TAKEOVERS = 20
OWNERS_LOST = "OWNERS_LOST"


@dataclass(frozen=True)
class Saga:
    """One saga. `due_at`: from when anybody may claim it, the end of its owner's lease included; None: nobody may.
    `attempts`: how often it was given back since a step of it last ended or came further."""

    tenant_id: UUID
    id: UUID
    kind: str
    version: int
    subject: str
    state: str
    undoing: bool
    input: bytes
    owner: str
    owner_epoch: int
    due_at: datetime | None
    attempts: int
    last_error: str
    reason: str
    actor: str
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    # Owners whose lease ran out since a step last ended or came further, or since it was last given back.
    takeovers: int = 0


@dataclass(frozen=True)
class SagaStep:
    """A step's action, or its compensation, as journaled. Keys and result are JSON objects."""

    step: str
    operation: str
    state: str
    keys: bytes
    result: bytes
    attempts: int
    last_error: str
    reason: str
    actor: str
    begun_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Journaled:
    """A saga with its steps, in the order in which they were begun."""

    saga: Saga
    steps: tuple[SagaStep, ...]


@dataclass(frozen=True)
class Change:
    """What is journaled of a step; empty keys or result keep what stands."""

    step: str
    operation: str
    state: str
    keys: bytes
    result: bytes
    attempts: int
    last_error: str


@dataclass(frozen=True)
class Advance:
    """What an owner journals: where the saga stands, and either for how long it is kept or after how long it is due."""

    epoch: int
    state: str
    changes: tuple[Change, ...]
    last_error: str
    lease: timedelta | None
    due_in: timedelta | None


def conflict(saga: Saga, message: str) -> FailedPrecondition:
    """The saga's state does not allow it."""
    return FailedPrecondition(message, metadata={"resource": "saga", "state": saga.state})


def forgiven(saga: Saga, standing: Iterable[SagaStep], changes: Iterable[Change]) -> Saga:
    """The saga with its rounds, and the owners it has lost, counted anew, where a step has ended or come further than what
    stands of it."""
    results = {(each.step, each.operation): each.result for each in standing}
    worked = any(
        change.state != "begun" or (change.result or b"{}") not in {b"{}", results.get((change.step, change.operation))}
        for change in changes
    )
    return replace(saga, attempts=0, takeovers=0) if worked else saga


def advance(saga: Saga, told: Advance, at: datetime) -> Saga:
    """The saga as its owner says; raises FailedPrecondition (SAGA_OWNER_LOST, STATE_CONFLICT), and InvalidArgument where it
    is given up without a reason."""
    if told.epoch != saga.owner_epoch or saga.state not in MOVING:
        raise FailedPrecondition(
            "The saga is another owner's by now, or nobody's.", reason="SAGA_OWNER_LOST",
            metadata={"state": saga.state, "owner_epoch": str(saga.owner_epoch)},
        )  # fmt: skip
    # What has begun to be undone is never gone on with.
    if saga.undoing and told.state in {RUNNING, SUCCEEDED}:
        raise conflict(saga, "The saga is being undone.")
    if not saga.undoing and told.state == COMPENSATED:
        raise conflict(saga, "The saga has undone nothing yet.")
    if told.state == ABANDONED and not told.last_error:
        raise InvalidArgument("Who gives a saga up says why.", field="last_error")
    moved = replace(
        saga, state=told.state, last_error=told.last_error or saga.last_error, updated_at=at,
        undoing=saga.undoing or told.state == COMPENSATING,
    )  # fmt: skip
    if told.state not in MOVING:
        return replace(moved, owner="", due_at=None, finished_at=at if told.state in FINISHED else None)
    if told.lease is not None:
        return replace(moved, due_at=at + told.lease)
    return replace(moved, owner="", due_at=at + (told.due_in or timedelta()), attempts=saga.attempts + 1, takeovers=0)


def lost(saga: Saga, at: datetime) -> Saga:
    """The saga, stuck: too many of its owners have ended without a word."""
    return replace(saga, state=STUCK, owner="", due_at=None, last_error=OWNERS_LOST, updated_at=at)


def journal(standing: SagaStep | None, change: Change, at: datetime) -> SagaStep:
    """The step's record after a change. What is done or skipped stays so."""
    if standing is None:
        return SagaStep(
            change.step, change.operation, change.state, change.keys or b"{}", change.result or b"{}",
            change.attempts, change.last_error, "", "", at, at,
        )  # fmt: skip
    return replace(
        standing,
        state=standing.state if standing.state in DONE else change.state,
        keys=change.keys or standing.keys,
        result=change.result or standing.result,
        attempts=change.attempts,
        last_error=change.last_error,
        updated_at=at,
    )


def _freed(saga: Saga, actor: str, reason: str, at: datetime) -> Saga:
    return replace(
        saga, state=COMPENSATING if saga.undoing else RUNNING, owner="", owner_epoch=saga.owner_epoch + 1, due_at=at,
        attempts=0, takeovers=0, reason=reason, actor=actor, updated_at=at,
    )  # fmt: skip


def retry(saga: Saga, actor: str, reason: str, at: datetime) -> Saga:
    """Due now, and nobody's; raises FailedPrecondition (STATE_CONFLICT)."""
    if saga.state in FINISHED:
        raise conflict(saga, "The saga is finished.")
    if saga.owner:
        raise conflict(saga, "The saga is being carried out.")
    if saga.created_at < at - RETRIED_WITHIN:
        raise conflict(
            saga, f"The saga is older than {RETRIED_WITHIN.days} days: the tiers may have forgotten its steps."
        )
    return _freed(saga, actor, reason, at)


def skip(saga: Saga, operation: str, actor: str, reason: str, at: datetime) -> Saga:
    """Due now, an action or a compensation of it being taken for done; raises FailedPrecondition (STATE_CONFLICT) unless it is
    stuck, and goes in that direction: by a compensation skipped in passing all that was done would be undone."""
    if saga.state != STUCK:
        raise conflict(saga, "Only of a stuck saga can a step be skipped.")
    if saga.undoing != (operation == COMPENSATION):
        raise conflict(saga, f"The saga is {'' if saga.undoing else 'not '}being undone.")
    return _freed(saga, actor, reason, at)


def skipped(
    standing: Mapping[tuple[str, str], SagaStep], change: Change, actor: str, reason: str, at: datetime
) -> SagaStep:
    """The step taken for done; raises InvalidArgument where it is done, or was never begun: the journal knows no definition, and
    a step that there is none of would end the saga for good."""
    if (change.step, ACTION) not in standing:
        raise InvalidArgument("The saga has begun no such step.", field="step")
    record = standing.get((change.step, change.operation)) or journal(None, change, at)
    if record.state in DONE:
        raise InvalidArgument("The step is done.", field="step")
    return replace(record, state=SKIPPED, actor=actor, reason=reason, updated_at=at)
