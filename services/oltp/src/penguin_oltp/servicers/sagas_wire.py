"""The journal of sagas between the wire and the domain."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.wire import number, stamp, word
from penguin_oltp.domain.sagas import MOVING, RUNNING, Advance, Change, Journaled, Saga, SagaStep


def _object(text: bytes, field: str) -> bytes:
    """A JSON object as it came, or nothing; raises InvalidArgument naming the field."""
    if not text:
        return b""
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{field} must be a JSON object.", field=field)
    return text


def new_saga(request: pb.CreateSagaRequest, at: datetime) -> Saga:
    """A saga as it begins, its creator's."""
    nothing: dict[str, Any] = {"last_error": "", "reason": "", "actor": ""}
    return Saga(
        tenant_id=UUID(request.tenant_id), id=UUID(request.saga_id), kind=request.kind, version=request.version,
        subject=request.subject, state=RUNNING, undoing=False, input=_object(request.input, "input"),
        owner=request.owner, owner_epoch=1, due_at=at + span(request, "lease_duration"), attempts=0,
        created_at=at, updated_at=at, finished_at=None, **nothing,
    )  # fmt: skip


def named(request: pb.ClaimSagasRequest) -> tuple[UUID, UUID]:
    """The one saga that is claimed by its name, with its tenant; raises InvalidArgument."""
    if not request.tenant_id:
        raise InvalidArgument("tenant_id goes with saga_id.", field="tenant_id")
    return UUID(request.tenant_id), UUID(request.saga_id)


def span(request: Any, field: str) -> timedelta:
    """A duration as the domain has it."""
    found: timedelta = getattr(request, field).ToTimedelta()
    return found


def advance(request: pb.AdvanceSagaRequest) -> Advance:
    """What an owner journals."""
    kept = request.HasField("lease_duration")
    return Advance(
        epoch=request.owner_epoch,
        state=word(pb.SagaState, request.state),
        changes=tuple(_change(n, each) for n, each in enumerate(request.changes)),
        last_error=request.last_error,
        lease=span(request, "lease_duration") if kept else None,
        due_in=None if kept else span(request, "due_in"),
    )


def _change(n: int, item: pb.SagaStepChange) -> Change:
    return Change(
        item.step, word(pb.SagaOperation, item.operation), word(pb.SagaStepState, item.state),
        _object(item.keys, f"changes[{n}].keys"), _object(item.result, f"changes[{n}].result"), item.attempts,
        item.last_error,
    )  # fmt: skip


def skipped(request: pb.SkipSagaStepRequest) -> Change:
    """The step that is to be taken for done."""
    return Change(request.step, word(pb.SagaOperation, request.operation), "begun", b"", b"", 0, "")


def saga(row: Saga, steps: Iterable[SagaStep] = ()) -> pb.Saga:
    """A saga as it stands."""
    owned = bool(row.owner) and row.state in MOVING
    return pb.Saga(
        id=str(row.id), tenant_id=str(row.tenant_id), kind=row.kind, version=row.version, subject=row.subject,
        state=number(pb.SagaState, row.state), input=row.input, owner=row.owner, owner_epoch=row.owner_epoch,
        owned_until=stamp(row.due_at) if owned else None, due_at=None if owned else stamp(row.due_at),
        attempts=row.attempts, last_error=row.last_error, reason=row.reason, actor=row.actor,
        created_at=stamp(row.created_at), updated_at=stamp(row.updated_at), finished_at=stamp(row.finished_at),
        takeovers=row.takeovers, steps=map(_step, steps),
    )  # fmt: skip


def journaled(found: Journaled) -> pb.Saga:
    """A saga with its steps."""
    return saga(found.saga, found.steps)


def _step(row: SagaStep) -> pb.SagaStepRecord:
    return pb.SagaStepRecord(
        step=row.step, operation=number(pb.SagaOperation, row.operation), state=number(pb.SagaStepState, row.state),
        keys=row.keys, result=row.result, attempts=row.attempts, last_error=row.last_error, reason=row.reason,
        actor=row.actor, begun_at=stamp(row.begun_at), updated_at=stamp(row.updated_at),
    )  # fmt: skip
