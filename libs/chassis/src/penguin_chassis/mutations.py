"""From a mutating request to its step: which key it is known by, and the digest that tells a replay from a reuse."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from penguin.common.v1 import mutation_pb2, options_pb2
from penguin_chassis.barrier import ACTION, COMPENSATION, Step
from penguin_chassis.clock import now
from penguin_chassis.faults import InvalidArgument
from penguin_chassis.wire import when

# How far ahead an action's not_after may be: far less than what was undone is remembered (housekeeping.SAGA_RETENTION).
NOT_AFTER_MAX = timedelta(days=1)
# How the request is known, and by which attempt: not what it asks for.
_IDENTITY = frozenset({"request_id", "saga_step"})


@cache
def _left_out(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Fields of a message that its digest leaves out."""
    return tuple(f for f in descriptor.fields if f.name in _IDENTITY or f.GetOptions().Extensions[options_pb2.minted])


@cache
def _nested(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Message fields (maps aside) below which, at any depth, something is left out."""
    left_out = _left_out(descriptor)
    return tuple(
        f
        for f in descriptor.fields
        if f.message_type is not None
        and not f.message_type.GetOptions().map_entry
        and f not in left_out
        and any(_left_out(each) for each in _below(f.message_type))
    )


def _below(descriptor: Descriptor) -> list[Descriptor]:
    """A message type and all that can stand inside of it, each once."""
    found = [descriptor]
    for each in found:
        found += [f.message_type for f in each.fields if f.message_type is not None and f.message_type not in found]
    return found


def request_digest(message: Message) -> bytes:
    """BLAKE2b-256 of what the message asks for: minted ids and keys, request_id and saga step are left out.

    Messages of two types never have the same digest, though their bytes may be the same.
    """
    descriptor = message.DESCRIPTOR
    bare: Any = message
    if _left_out(descriptor) or _nested(descriptor):
        bare = type(message)()
        bare.CopyFrom(message)
        _strip(bare)
    # It tells bodies apart and guards nothing: the faster hash, as bodies are hashed on every send.
    state = hashlib.blake2b(descriptor.full_name.encode() + b"\0", digest_size=32)
    state.update(bare.SerializeToString(deterministic=True))
    return state.digest()


def _strip(message: Any) -> None:
    for field in _left_out(message.DESCRIPTOR):
        message.ClearField(field.name)
    for field in _nested(message.DESCRIPTOR):
        if field.is_repeated:
            for each in getattr(message, field.name):
                _strip(each)
        elif message.HasField(field.name):
            _strip(getattr(message, field.name))


def step_of(request: Any, item: Any = None, *, at: datetime | None = None) -> Step:
    """The step of a single mutation. `item` is the nested message that carries request_id, where the request does not."""
    saga: mutation_pb2.SagaStep | None = request.saga_step if _has(request, "saga_step") else None
    at = at or now()
    tenant = UUID(getattr(request, "tenant_id", "") or "00000000-0000-0000-0000-000000000000")
    digested = request_digest(request)
    if saga is None:
        return Step(tenant, f"req:{(item or request).request_id.lower()}", digested, at)
    return _saga_step(tenant, saga, digested, at)


def item_steps(request: Any, items: Any, *, at: datetime | None = None) -> list[Step]:
    """The steps of a batch's items, in order."""
    tenant = UUID(request.tenant_id)
    at = at or now()
    return [Step(tenant, f"req:{item.request_id.lower()}", request_digest(item), at) for item in items]


def gate_of(request: Any, *, at: datetime | None = None, undoes: bool = False) -> Step | None:
    """The step of a whole batch, where its request names a saga step: it bars the batch once that is compensated.

    A method that cannot undo itself (`undoes`) is never a compensation: raises InvalidArgument.
    """
    if not _has(request, "saga_step"):
        return None
    if request.saga_step.operation == mutation_pb2.STEP_OPERATION_COMPENSATION and not undoes:
        raise InvalidArgument("This method only acts; its compensation is another.", field="saga_step.operation")
    return _saga_step(UUID(request.tenant_id), request.saga_step, request_digest(request), at or now())


def _saga_step(tenant: UUID, saga: mutation_pb2.SagaStep, digested: bytes, at: datetime) -> Step:
    compensates = saga.operation == mutation_pb2.STEP_OPERATION_COMPENSATION
    not_after = when(saga, "not_after")
    # Compensations are always accepted.
    if not compensates and not_after is not None and not_after > at + NOT_AFTER_MAX:
        raise InvalidArgument("not_after is at most a day ahead.", field="saga_step.not_after")
    return Step(
        tenant, f"saga:{saga.saga_id.lower()}:{saga.step}", digested, at,
        operation=COMPENSATION if compensates else ACTION, not_after=not_after,
        refusal_stands=saga.refusal_stands and not compensates,
    )  # fmt: skip


def _has(request: Any, field: str) -> bool:
    return field in request.DESCRIPTOR.fields_by_name and request.HasField(field)


__all__ = ["gate_of", "item_steps", "now", "request_digest", "step_of"]
