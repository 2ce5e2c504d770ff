"""What ties jobs to one another: unique keys, ordering keys, waiting for others, batches. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# Where a job must stand for its unique key to hold, as bits of a mask.
WAITING, LEASED, COMPLETED, DEAD = 1, 2, 4, 8
# The bit of a job by the number of its state; a cancelled or discarded one holds nothing.
HOLDS = {0: WAITING, 1: WAITING, 6: WAITING, 2: LEASED, 3: COMPLETED, 4: DEAD}
AWAITED_CANCELLED = "awaited_cancelled"


@dataclass(frozen=True)
class Unique:
    """A key that one job of its tenant and kind has while it stands where `holds` says, and no longer than `holds_for`."""

    key: str
    holds: int
    holds_for: timedelta | None
    replace: bool


@dataclass(frozen=True)
class Ties:
    """What a new job has to do with others. `after_items` are indexes of earlier items of the same call."""

    unique: Unique | None = None
    ordering_key: str = ""
    waits_for: tuple[int, ...] = ()
    after_items: tuple[int, ...] = ()
    run_if_failed: bool = False


@dataclass(frozen=True)
class BatchProgress:
    """How the members of a batch have ended so far; `open` while more are announced."""

    total: int
    completed: int
    dead: int
    cancelled: int
    open: bool


def held_key(holds: int, until: datetime | None, state: int | None, at: datetime) -> bool:
    """Whether a key is held by a job in this state (None: it is nowhere)."""
    return (until is None or until > at) and bool(holds & HOLDS.get(-1 if state is None else state, 0))


def over_for(state: int | None, *, run_if_failed: bool) -> bool:
    """Whether an awaited job in this state need not be waited for."""
    return state == 3 or (run_if_failed and state in {4, 5, 7})
