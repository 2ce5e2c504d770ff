"""The step barrier: a mutation is carried out once, and every repeat gets the first answer.

Stores call it inside their own transaction, so the record stands or falls with the write. It is keyed by request_id,
or by saga step where the request names one; a compensation that arrives first bars its late action, and so does a refusal that
its caller takes for final.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast
from uuid import UUID

from pydantic import TypeAdapter

from penguin_chassis import faults
from penguin_chassis.calls import current_call
from penguin_chassis.queries import load

if TYPE_CHECKING:
    from penguin_chassis.pool import Connection

T = TypeVar("T")
X = TypeVar("X")
sql = load("penguin_chassis.sql", "barrier.sql")

REQUEST = "request"
ACTION = "action"
COMPENSATION = "compensation"


@dataclass(frozen=True)
class Step:
    """One mutation's identity: its key, what kind of step it is, the digest of its request, its time.

    `at` is the tier's clock when the request arrived; an action past `not_after` is refused. `refusal_stands`: what an action
    is refused for is its answer for good.
    """

    tenant_id: UUID
    key: str
    digest: bytes
    at: datetime
    operation: str = REQUEST
    not_after: datetime | None = None
    refusal_stands: bool = False


@dataclass(frozen=True)
class Replay(Generic[T]):
    """The mutation was carried out before; this is what it answered then."""

    reply: T


class Fresh:
    """The mutation is this transaction's to carry out; `record` its reply, or `release` it."""


FRESH = Fresh()
Claim = Fresh | Replay[T] | faults.Fault


@cache
def _codec(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


async def claim_all(
    connection: Connection, steps: Sequence[Step], kind: type[T], foreseen: Sequence[T | None] | None = None
) -> list[Claim[T]]:
    """Claim the items of one batch (one tenant, one operation); answers in the order of `steps`.

    `foreseen` are the replies, where they are known before the act: stored with the claim, they need not be recorded.

    An item is fresh, a replay, or a fault: REQUEST_ID_REUSED for another body or for a key that stands twice in the
    batch, SAGA_COMPENSATED, STEP_EXPIRED (for an action that had not been carried out by its not_after).
    """
    first = steps[0]
    claims: list[Claim[T]] = [FRESH] * len(steps)
    index: dict[str, int] = {}
    late: set[str] = set()
    for i, step in enumerate(steps):
        if step.key in index:
            claims[i] = faults.RequestIdReused()
            continue
        index[step.key] = i
        if step.operation == ACTION and step.not_after is not None and step.at > step.not_after:
            late.add(step.key)
    keys = [key for key in index if key not in late]
    replies = [_stored(foreseen[index[key]], kind) if foreseen else None for key in keys]
    rows = await connection.fetch(
        sql.claim, first.tenant_id, first.operation, keys, [steps[index[key]].digest for key in keys], replies, first.at
    )
    repeated = set(index).difference(row["key"] for row in rows)
    if repeated:
        stored = {
            row["key"]: row
            for row in await connection.fetch(sql.recall, first.tenant_id, first.operation, sorted(repeated))
        }
        for key in repeated:
            i = index[key]
            claims[i] = _recalled(stored[key], steps[i], kind) if key in stored else _unclaimed(late=key in late)
    if first.refusal_stands and claims[0] is FRESH and (call := current_call()) is not None:
        call.claimed.append(first)
    return claims


def _stored(reply: T | None, kind: type[T]) -> bytes | None:
    return None if reply is None else _codec(cast("Any", kind)).dump_json(reply)


def _unclaimed(*, late: bool) -> faults.Fault:
    if late:
        return faults.FailedPrecondition("The step came after its not_after.", reason="STEP_EXPIRED")
    # It stood there when we claimed and was pruned before we looked: nothing was done. Or it stands there since.
    return faults.Unavailable("Two writes crossed; try again.", retry_after_s=0.05)


def _recalled(row: Any, step: Step, kind: type[T]) -> Replay[T] | faults.Fault:
    if row["compensated"] and row.get("refused") is not None:
        return faults.restored(row["refused"])
    if row["compensated"]:
        return faults.Aborted("The step was compensated before.", reason="SAGA_COMPENSATED")
    if row["digest"] != step.digest:
        return faults.RequestIdReused()
    if row["reply"] is None:
        return Replay(cast("T", None))  # a batch's gate: claimed, and its items answer for it
    return Replay(_codec(cast("Any", kind)).validate_json(row["reply"]))


def encoded(reply: T, kind: type[T]) -> bytes:
    """An answer as it is stored, for a hot function that claims and records in one trip."""
    return _codec(cast("Any", kind)).dump_json(reply)


def repeated(row: Any, step: Step, kind: type[T]) -> T:
    """The first answer, from a stored row's digest, reply and compensated; raises as `claim`. No digest: it was pruned
    between the claim and the look, and nothing was done."""
    recalled = _unclaimed(late=False) if row["digest"] is None else _recalled(row, step, kind)
    if isinstance(recalled, faults.Fault):
        raise recalled
    return recalled.reply


async def claim(connection: Connection, step: Step, kind: type[T]) -> Replay[T] | None:
    """Claim one mutation: None when it is to be carried out now, the first answer when it was before.

    A compensation also bars its action. Raises RequestIdReused, Aborted (SAGA_COMPENSATED), FailedPrecondition
    (STEP_EXPIRED).
    """
    if step.operation == COMPENSATION:
        await connection.execute(sql.overtake, step.tenant_id, step.key, step.at)
    (claimed,) = await claim_all(connection, [step], kind)
    if isinstance(claimed, faults.Fault):
        raise claimed
    return claimed if isinstance(claimed, Replay) else None


async def refuse(connection: Connection, step: Step, refusal: faults.Fault) -> faults.Fault:
    """Bar an action that was refused, in a transaction after its own; answers what its caller is to be told.

    That is the refusal, or an earlier one. Where a copy of it was carried out in between it is Unavailable: asked again, the
    action is answered what that was.
    """
    if await connection.fetchrow(sql.refuse, step.tenant_id, step.key, step.digest, faults.stored(refusal), step.at):
        return refusal
    rows = await connection.fetch(sql.recall, step.tenant_id, ACTION, [step.key])
    if not rows or not rows[0]["compensated"]:
        # Of a closed tenant nobody is told what was done before.
        return refusal if refusal.reason == "TENANT_CLOSED" else _unclaimed(late=False)
    return refusal if rows[0]["refused"] is None else faults.restored(rows[0]["refused"])


async def undone(connection: Connection, compensation: Step, kind: type[T]) -> T | None:
    """What the action answered that a compensation undoes; None where it was never carried out, or left no answer."""
    (row,) = await connection.fetch(sql.recall, compensation.tenant_id, ACTION, [compensation.key])
    return None if row["reply"] is None else _codec(cast("Any", kind)).validate_json(row["reply"])


async def answered(connection: Connection, steps: Sequence[Step], kind: type[T]) -> list[T | None]:
    """What each of these steps was answered when it was carried out; None for one that was not."""
    keys = [step.key for step in steps]
    rows = await connection.fetch(sql.recall, steps[0].tenant_id, steps[0].operation, keys)
    stored = {row["key"]: row["reply"] for row in rows if row["reply"] is not None}
    codec = _codec(cast("Any", kind))
    return [codec.validate_json(stored[key]) if key in stored else None for key in keys]


async def record(connection: Connection, step: Step, reply: T, kind: type[T]) -> T:
    """Store the answer to a claimed mutation and give it back."""
    await record_all(connection, [step], [reply], kind)
    return reply


async def record_all(connection: Connection, steps: Sequence[Step], replies: Sequence[T], kind: type[T]) -> None:
    """Store the answers to claimed items of one batch."""
    if not steps:
        return
    codec = _codec(cast("Any", kind))
    await connection.execute(
        sql.record, steps[0].tenant_id, steps[0].operation,
        [s.key for s in steps], [codec.dump_json(reply) for reply in replies],
    )  # fmt: skip


async def release_all(connection: Connection, steps: Sequence[Step]) -> None:
    """Give back claimed items that could not be carried out, so that they may be tried again."""
    if steps:
        await connection.execute(sql.release, steps[0].tenant_id, steps[0].operation, [s.key for s in steps])


async def once_each(
    connection: Connection,
    items: Sequence[tuple[Step, X]],
    kind: type[T],
    act: Callable[[list[tuple[Step, X]]], Awaitable[Sequence[T | faults.Fault | None]]],
    *,
    foresee: Callable[[X], T | None] | None = None,
) -> list[T | faults.Fault]:
    """Carry out a batch's items once each: `act` gets the fresh ones and answers them in order.

    Replies are stored; items answered with a fault are released, to be tried again. Repeats get their first answer.
    Answers come in the order of `items`. `foresee` tells an item's reply beforehand, or None where it cannot:
    stored with the claim, it saves a second write. `act` then answers None for an item that went as foreseen.
    """
    foreseen = [foresee(item) for _, item in items] if foresee else None
    claims = await claim_all(connection, [step for step, _ in items], kind, foreseen)
    places = [n for n, claimed in enumerate(claims) if isinstance(claimed, Fresh)]
    fresh = [items[n] for n in places]
    acted = await act(fresh) if fresh else []
    released: list[Step] = []
    told: list[tuple[Step, T]] = []
    answers: list[Any] = [claimed.reply if isinstance(claimed, Replay) else claimed for claimed in claims]
    for n, answer in zip(places, acted, strict=True):
        if answer is None and foreseen:
            answers[n] = foreseen[n]
            continue
        answers[n] = answer
        if isinstance(answer, faults.Fault):
            released.append(items[n][0])
        else:
            told.append((items[n][0], cast("T", answer)))
    await release_all(connection, released)
    await record_all(connection, [step for step, _ in told], [answer for _, answer in told], kind)
    return answers
