"""What the stores of single resources do alike: once per request, only under the right etag, a whole row at a time. It
knows no table: every statement is handed in by the store that names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.faults import Aborted, NotFound
from penguin_chassis.pool import Connection
from penguin_oltp.store import constraints

T = TypeVar("T")
# Rows as asyncpg gives them: mappings that its types do not call so.
Record = Any


@cache
def _fields(kind: Any) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(kind))


def read(kind: type[T], record: Record, **decoded: Any) -> T:
    """A record as the domain sees it; columns that are none of its fields are left out, `decoded` replaces others."""
    known = _fields(cast("Any", kind))
    return kind(**{name: value for name, value in record.items() if name in known} | decoded)


def columns(resource: Any, **encoded: Any) -> list[Any]:
    """A resource's values in the order of its fields, which is the order of the statements' parameters."""
    return [encoded.get(f.name, getattr(resource, f.name)) for f in dataclasses.fields(resource)]


def firsts(items: Iterable[T]) -> dict[UUID, T]:
    """Items of a batch by id; where a batch names an id twice, the first has it and the others must be refused."""
    by_id: dict[UUID, T] = {}
    for item in items:
        by_id.setdefault(cast("Any", item).id, item)
    return by_id


async def once(
    transaction: AbstractAsyncContextManager[Connection],
    step: Step,
    kind: type[T],
    act: Callable[[Connection], Awaitable[T]],
) -> T:
    """Carry out a mutation once, in one transaction with its record; a repeat gets the first answer."""
    async with transaction as connection:
        if (done := await barrier.claim(connection, step, kind)) is not None:
            return done.reply
        return await barrier.record(connection, step, await act(connection), kind)


async def write(connection: Connection, query: str, values: list[Any]) -> None:
    """Insert or rewrite one row, whose first value is its tenant.

    Raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant).
    """
    with constraints.writing(values[0]):
        await connection.execute(query, *values)


def found(record: Record, resource: str, identifier: UUID) -> Record:
    """The record; raises NotFound where there is none."""
    if record is None:
        raise NotFound(resource, identifier)
    return record


def checked(record: Record, resource: str, identifier: UUID, etag: str) -> Record:
    """The record, if it is still what `etag` (where given) says; raises NotFound, Aborted (ETAG_MISMATCH)."""
    held = found(record, resource, identifier)
    if etag and etag != str(held["version"]):
        raise Aborted(f"The {resource} was changed since it was read.", metadata={"resource": resource})
    return held


def changed(resource: T, changes: Mapping[str, Any], at: datetime) -> T:
    """The resource after an update."""
    held: Any = resource
    changed: T = dataclasses.replace(held, **changes, version=held.version + 1, updated_at=at)
    return changed


async def remove(
    connection: Connection, step: Step, resource: str, identifier: UUID, etag: str, *, hold: str, delete: str
) -> Record:
    """Delete one row and give back what it was. A compensation finds nothing to undo and is content: None.

    Raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED).
    """
    record = await connection.fetchrow(hold, step.tenant_id, identifier)
    if record is None and step.operation == barrier.COMPENSATION:
        return None
    held = checked(record, resource, identifier, etag)
    with constraints.deleting(resource):
        await connection.execute(delete, step.tenant_id, identifier)
    return held
