"""Receipts of reconcile as values: the terms of a run, how far its parts have come, what it found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

# Stands for the platform itself, where a run is not of one tenant alone.
PLATFORM = UUID(int=0)
# How long a run is its caller's without another word: a window is told of once, and takes several calls of 25 s at worst.
LEASE = timedelta(minutes=5)
# A run that was left longer ago is not taken on: what it saw is too old.
RESUMABLE = timedelta(days=1)

# A run that was refused, or left tenants uncompared, is followed by the next after this long at the most, whatever the interval.
AFTER_REFUSAL = timedelta(hours=1)

RUNNING = "running"
FINISHED = "finished"
REFUSED = "refused"
LEFT = "its caller left it"
# Counts of what does not agree begin so.
FOUND = "found."


@dataclass(frozen=True)
class Terms:
    """What a run may do: for which tenant (PLATFORM: all), whether it changes anything, seconds of grace, acts at most."""

    tenant_id: UUID
    apply: bool
    grace_s: int
    cap: int


@dataclass(frozen=True)
class Run:
    """A run's receipt."""

    tenant_id: UUID
    id: UUID
    apply: bool
    grace_s: int
    cap: int
    status: str
    owner: UUID
    leased_until: datetime
    started_at: datetime
    finished_at: datetime | None = None
    refused_reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def terms(self) -> Terms:
        """What it may do."""
        return Terms(self.tenant_id, self.apply, self.grace_s, self.cap)


@dataclass(frozen=True)
class Progress:
    """How far one part of one tenant has come, and what was counted of it so far."""

    tenant_id: UUID
    part: str
    to_generation: int
    done: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Finding:
    """One thing that does not agree: its kind, what it is about, where it was seen, what was done about it."""

    tenant_id: UUID
    kind: str
    subject: str
    source: str
    action: str


@dataclass(frozen=True)
class Started:
    """A run in its caller's hands, and what an earlier caller has done of it."""

    run: Run
    progress: list[Progress]


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts added up by name, in the order of their names."""
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


def event_of(run: Run) -> dict[str, Any] | None:
    """The admin event that a run is worth: one for whatever it found; None where everything agreed."""
    found = {name.removeprefix(FOUND): n for name, n in run.counts.items() if name.startswith(FOUND) and n}
    if not found and run.status != REFUSED:
        return None
    words = ", ".join(f"{n} {name}" for name, n in found.items())
    refused = f"refused: {run.refused_reason}" if run.status == REFUSED else ""
    return {
        "event_type": "reconcile.refused" if refused else "reconcile.found",
        "severity": "warning",
        "description": "Reconcile: " + "; ".join(filter(None, (words, refused))),
        "details": {"run_id": str(run.id), "applied": run.apply, "found": found},
        "of_tenant": run.tenant_id != PLATFORM,
        "dedupe_key": "reconcile.refused" if refused else "reconcile.found",
    }
