"""The call in hand: who makes it and until when.

Interceptors set it, pools and servicers read it. It is a context variable, so nothing has to be handed down by hand, and
nothing is ever shared between two calls.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from penguin_chassis.barrier import Step

# No unary call may take longer than this, whatever its client asks for (seconds).
UNARY_CAP_S = 30.0


@dataclass(frozen=True)
class Caller:
    """Whom a verified token stands for."""

    actor: str
    tenant_id: UUID | None
    scopes: frozenset[str]
    platform: bool = False
    # Full method paths that a platform token is narrowed to.
    methods: frozenset[str] = field(default_factory=frozenset)


class Life(Protocol):
    """Which life of its database a tier serves."""

    @property
    def id(self) -> str:
        """Another after a restore; empty where nobody asked."""


@dataclass(frozen=True)
class Call:
    """One call: its method path, its caller, and its deadline on the monotonic clock (seconds)."""

    method: str
    caller: Caller
    deadline: float
    # One for each transaction begun for it, two at most: what fails before the first has had no effect.
    begun: list[bool] = field(default_factory=list, compare=False)
    # Steps claimed for it whose refusal is to stand.
    claimed: list[Step] = field(default_factory=list, compare=False)
    # The clock of the tier that is called, where it has one of its own.
    now: Callable[[], datetime] | None = field(default=None, compare=False)
    # Of the database that is called: what points into one life of it means nothing in another.
    life: Life | None = field(default=None, compare=False)

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.deadline - time.monotonic())


_current: ContextVar[Call | None] = ContextVar("penguin_call", default=None)


def current_call() -> Call | None:
    """The call in hand, or None in background work."""
    return _current.get()


def enter(call: Call) -> object:
    """Make `call` the current one; give the token to `leave`."""
    return _current.set(call)


def leave(token: object) -> None:
    """Undo `enter`."""
    _current.reset(token)  # type: ignore[arg-type]


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give what is done inside at most so long: one act of a long stream, which may outlast it by far."""
    call = _current.get()
    ends = time.monotonic() + seconds
    shorter = None if call is None else replace(call, deadline=min(call.deadline, ends))
    token = _current.set(shorter)
    try:
        yield
    finally:
        _current.reset(token)


def remaining(default: float = UNARY_CAP_S) -> float:
    """Seconds until the current call's deadline; `default` outside of a call."""
    call = _current.get()
    return default if call is None else call.remaining()
