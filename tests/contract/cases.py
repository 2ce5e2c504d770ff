"""What is said of a method so that its contract can be put to it: a right request, what is to be seen of it, and how it is broken."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.contract.wire import Change, Enough, World

from penguin.common.v1 import errors_pb2, mutation_pb2

Check = Callable[[Any, Any], None]


@dataclass(frozen=True)
class Within:
    """The call succeeds and says in its reply what it did not find."""

    change: Change
    check: Callable[[Any], None]


@dataclass(frozen=True)
class Mutation:
    """A method that changes something: what to look at to see it, and another body under the same request_id.

    `unkeyed` says, for a method without a request_id, what makes a repeat harmless; `repeats` what a repeat answers,
    the first answer unless it says otherwise.
    """

    observe: Callable[[World, Any], Awaitable[Any]]
    vary: Change | None = None
    unkeyed: str = ""
    repeats: Check | None = None


@dataclass(frozen=True)
class Batch:
    """A method that answers per item: how the second item is made one that cannot be carried out, and the error it gets."""

    items: str
    spoil: Callable[[Any], None]
    reason: str


@dataclass(frozen=True)
class Listing:
    """A method that pages: the field its rows stand in, how many there are (at least), and another filter if it has one."""

    rows: str
    count: int
    refilter: Change | None = None


@dataclass(frozen=True)
class Case:
    """One method: what a right request is, what to see in its reply, how to break it, and what it does not find.

    `broken`: the field named by the refusal, and the change that breaks it, or in words why nothing can. `absent`: the change after which it is
    NOT_FOUND, or what it answers instead, or in words why there is no such thing. `stranger`: the reason by which another
    tenant is refused that asks, by its own token, for what is this tenant's; or what its reply must show. `enough`: when
    to leave a stream that never ends.
    """

    method: str
    build: Callable[[World], Awaitable[Any]]
    check: Check
    broken: tuple[str, Change] | str
    absent: Change | Within | str
    stranger: str | Callable[[Any], None] = "NOT_FOUND"
    mutation: Mutation | None = None
    batch: Batch | None = None
    listing: Listing | None = None
    enough: Enough | None = None


def equal(first: Any, second: Any) -> None:
    """The repeat answers what the first answered."""
    assert second == first


def reason_of(result: Any) -> str:
    """Why a batch's item was refused, or nothing."""
    if result.WhichOneof("outcome") != "error":
        return ""
    return errors_pb2.ErrorReason.Name(result.error.reason).removeprefix("ERROR_REASON_")


def saga_step(*, not_after_s: float = 60) -> mutation_pb2.SagaStep:
    """An action of a saga of this call alone, good for so many seconds from now."""
    step = mutation_pb2.SagaStep(saga_id=str(uuid4()), step="contract", operation=mutation_pb2.STEP_OPERATION_ACTION)
    step.not_after.FromSeconds(int(time.time() + not_after_s))
    return step
