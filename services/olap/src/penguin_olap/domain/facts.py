"""A day's facts: the cells as they are loaded, what they sum up to in each table, and what the day costs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

from penguin_chassis.faults import InvalidArgument

K = TypeVar("K")

# Stands for "none": emails outside a campaign, a step or a mailbox.
NOBODY = UUID(int=0)
# How far a source's clock may be ahead of ours. A count from the far future would bar every true one after it.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Measures:
    """Counts of emails; each email counts once per measure."""

    sent: int = 0
    delivered: int = 0
    opened: int = 0
    opened_machine: int = 0
    clicked: int = 0
    replied: int = 0
    bounced: int = 0
    unsubscribed: int = 0
    spam_complaints: int = 0
    failed: int = 0
    outcome_unknown: int = 0


MEASURES = tuple(field.name for field in fields(Measures))
_counts = attrgetter(*MEASURES)


def counts_of(measures: Measures) -> tuple[int, ...]:
    """The counts in the order of MEASURES. (`astuple` copies deeply, and ten thousand cells are a load.)"""
    counts: tuple[int, ...] = _counts(measures)
    return counts


@dataclass(frozen=True)
class Cell:
    """One (campaign, step, mailbox) of a day."""

    campaign_id: UUID
    step_id: UUID
    email_account_id: UUID
    measures: Measures


# Tables of sums, in the order in which a day's rows are listed.
TABLES = ("campaign", "sequence_step", "mailbox")


@dataclass(frozen=True)
class DayFact:
    """A row of one of the tables: NOBODY for an id that it has none of."""

    table: str
    campaign_id: UUID
    step_id: UUID
    email_account_id: UUID
    measures: Measures


@dataclass(frozen=True)
class DayLoad:
    """Everything one source counted for one tenant's day, at `computed_at`."""

    day: date
    cells: Sequence[Cell]
    content_bytes: int
    computed_at: datetime
    digest: bytes


@dataclass(frozen=True)
class Loaded:
    """The answer to a load; stale: a later count stands, and nothing was changed."""

    stale: bool
    cells: int


@dataclass(frozen=True)
class Watermark:
    """How far a source has been loaded for a tenant."""

    source: str
    cursor: str
    data_through: datetime
    committed_at: datetime


def total(parts: Iterable[Measures]) -> Measures:
    """The sum of measures; nothing sums to zeros."""
    rows = [_counts(part) for part in parts]
    return Measures(*map(sum, zip(*rows, strict=True))) if rows else Measures()


def rolled_up(cells: Iterable[Cell], key: Callable[[Cell], K]) -> dict[K, Measures]:
    """Cells summed by `key`."""
    groups: dict[K, list[Measures]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell.measures)
    return {each: total(parts) for each, parts in groups.items()}


def day_load(day: date, cells: Sequence[Cell], content_bytes: int, computed_at: datetime, at: datetime) -> DayLoad:
    """A load that can be stored; raises InvalidArgument for a cell given twice or a count made in the future."""
    not_ahead(computed_at, at, "computed_at")
    seen: set[tuple[UUID, UUID, UUID]] = set()
    for i, cell in enumerate(cells):
        place = (cell.campaign_id, cell.step_id, cell.email_account_id)
        if place in seen:
            raise InvalidArgument("The cell stands twice in the load.", field=f"cells[{i}]")
        seen.add(place)
    return DayLoad(day, cells, content_bytes, computed_at, _digest(cells, content_bytes))


def not_ahead(moment: datetime, at: datetime, field: str) -> None:
    """Raise InvalidArgument for a moment that lies in the future by more than clocks differ."""
    if moment > at + CLOCK_SKEW:
        raise InvalidArgument(f"{field} lies in the future.", field=field)


def estimated_cost_usd_micros(sent: int, price_usd_micros_per_email: int) -> int:
    """What a day's emails cost, in millionths of a US dollar."""
    return sent * price_usd_micros_per_email


def _digest(cells: Sequence[Cell], content_bytes: int) -> bytes:
    """SHA-256 of what a load says, whatever the order of its cells."""
    lines = sorted(
        f"{c.campaign_id}/{c.step_id}/{c.email_account_id}:{','.join(map(str, _counts(c.measures)))}" for c in cells
    )
    return hashlib.sha256("\n".join([str(content_bytes), *lines]).encode()).digest()
