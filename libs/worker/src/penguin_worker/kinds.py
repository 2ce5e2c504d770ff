"""How jobs of each kind are run: which function handles them, how many at once, and for how long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from penguin_worker.jobs import Job, Outcome, Reject, result_of

P = TypeVar("P")

# The contract's limit for one stream.
PLACES_MAX = 5000

# Handles one job: returning is done, and may say where the result is; raising NotDone is not.
One = Callable[[Job], Awaitable[Outcome]]
# The same, with the job's payload as a type of its own.
Typed = Callable[[Job, P], Awaitable[Outcome]]
# Handles jobs of one kind and one tenant together, and settles each; what it raises is said of those it left unsettled.
Many = Callable[[Sequence[Job]], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """A handler of single jobs, or one of `many` in groups of one tenant, each in a task of its own from its first wait on.

    A kind with a `limit` has so many places of its own, beside those that the others share. After `timeout_s` seconds the
    handler is cancelled, and the attempt fails as "timeout".
    """

    one: One | None = None
    many: Many | None = None
    limit: int | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if (self.one is None) == (self.many is None):
            raise ValueError("a kind has one handler: of single jobs, or of many together")
        if self.limit is not None and not 1 <= self.limit <= PLACES_MAX:
            raise ValueError(f"a kind has 1 to {PLACES_MAX} places")
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValueError("a time-out lies ahead")


class Kinds(dict[str, Kind]):
    """Handlers by kind, entered by decorators."""

    def on(
        self, name: str, payload: type[P], *, limit: int | None = None, timeout_s: float | None = None
    ) -> Callable[[Typed[P]], Typed[P]]:
        """The decorated function handles jobs of this kind, whose payload is of this type; raises ValueError for a kind
        that has a handler."""

        def enter(handle: Typed[P]) -> Typed[P]:
            if name in self:
                raise ValueError(f"{name} has a handler")
            self[name] = Kind(typed(payload, handle), limit=limit, timeout_s=timeout_s)
            return handle

        return enter


def typed(payload: type[P], handle: Typed[P]) -> One:
    """A handler whose payload is checked first, by pydantic; a job with another one is a dead letter."""
    adapter: TypeAdapter[P] = TypeAdapter(payload)

    # No coroutine of its own: it gives back the handler's.
    def one(job: Job) -> Awaitable[Outcome]:
        try:
            read = adapter.validate_python(job.payload)
        except ValidationError:
            raise Reject("payload_invalid") from None
        return handle(job, read)

    return one


def keeping(one: One) -> One:
    """A handler whose result stays with its job, whatever stands around it."""

    async def kept(job: Job) -> None:
        job.result = result_of(await one(job))

    return kept
