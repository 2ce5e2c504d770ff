"""Queues: what holds for all jobs of their kinds. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from penguin_chassis.faults import InvalidArgument

BASE = timedelta(seconds=1)
CAP = timedelta(hours=1)
# How long jobs that are over stay, where a queue does not say it.
COMPLETED_RETENTION = timedelta(days=7)
DEAD_RETENTION = timedelta(days=365)
# The rates of a queue, by their names in Terms and in the contract.
RateName = Literal["rate", "tenant_rate", "key_rate"]
RATES: tuple[RateName, ...] = ("rate", "tenant_rate", "key_rate")


@dataclass(frozen=True)
class Limit:
    """A rate: so many jobs in `ms` milliseconds, and how many may go at once after a rest."""

    jobs: int
    ms: int
    burst: int


@dataclass(frozen=True)
class Terms:
    """What is said of a queue. `priority` is 1 (high) to 3 (low); a `max_in_flight` of 0 means no limit.

    `backoff_base` and `backoff_cap` are milliseconds, the retentions seconds; `dead_letters` is 1 (keep) or 2 (discard).
    """

    name: str
    priority: int
    max_attempts: int
    backoff_base: int
    backoff_cap: int
    lost_lease_limit: int
    max_in_flight: int
    completed_retention: int = int(COMPLETED_RETENTION.total_seconds())
    dead_retention: int = int(DEAD_RETENTION.total_seconds())
    dead_letters: int = 1
    rate: Limit | None = None
    tenant_rate: Limit | None = None
    key_rate: Limit | None = None


@dataclass(frozen=True)
class Queue:
    """A queue as it stands."""

    terms: Terms
    paused: bool
    kinds: list[str]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Pause:
    """Whose jobs rest: a queue's, a kind's, or a tenant's (of one kind, or of all where it is empty)."""

    queue: str = ""
    kind: str = ""
    tenant_id: UUID | None = None

    @property
    def place(self) -> tuple[int, str, str]:
        """Where it stands in the list of all."""
        if self.tenant_id is not None:
            return 3, str(self.tenant_id), self.kind
        return (2, self.kind, "") if self.kind else (1, self.queue, "")


def backoff_of(base: timedelta | None, cap: timedelta | None) -> tuple[int, int]:
    """A back-off's base and cap in milliseconds, given or by default; raises InvalidArgument for a cap below its base."""
    base = BASE if base is None else base
    if cap is not None and cap < base:
        raise InvalidArgument("A back-off is capped at its base or later.", field="queue.retry.cap")
    whole = timedelta(milliseconds=1)
    return base // whole, (max(base, CAP) if cap is None else cap) // whole


def limit_of(jobs: int, per: timedelta, burst: int) -> Limit:
    """A rate's limit; without a burst as many may go at once as in one second, and at least one."""
    ms = per // timedelta(milliseconds=1)
    return Limit(jobs, ms, burst or max(1, 1000 * jobs // ms))
