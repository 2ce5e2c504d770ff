"""How jobs of each kind are run: which function handles them, how many at once, and for how long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from penguin_worker.jobs import Job

# Handles one job: returning is done, raising NotDone is not.
One = Callable[[Job], Awaitable[None]]
# Handles jobs of one kind and one tenant together, and settles each; what it raises is said of those it left unsettled.
Many = Callable[[Sequence[Job]], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """A handler of single jobs, each in a task of its own, or one of `many` in groups of one tenant."""

    one: One | None = None
    many: Many | None = None

    def __post_init__(self) -> None:
        if (self.one is None) == (self.many is None):
            raise ValueError("a kind has one handler: of single jobs, or of many together")
