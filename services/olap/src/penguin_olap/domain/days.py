"""UTC days and spans of them, as requests name them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from penguin_chassis.faults import InvalidArgument

# The longest span a report covers: a leap year.
MAX_SPAN_DAYS = 366


@dataclass(frozen=True)
class Span:
    """Days from `first` to `last`, both included."""

    first: date
    last: date


def day_of(text: str, field: str) -> date:
    """The day an ISO date names; raises InvalidArgument naming `field` for one that no calendar has."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidArgument("There is no such day.", field=field) from None


def span_of(first_day: str, last_day: str) -> Span:
    """The span between two ISO dates; raises InvalidArgument for no day, the wrong order, or more than 366 days."""
    span = Span(day_of(first_day, "span.first_day"), day_of(last_day, "span.last_day"))
    if span.last < span.first:
        raise InvalidArgument("The last day comes before the first.", field="span.last_day")
    if (span.last - span.first).days >= MAX_SPAN_DAYS:
        raise InvalidArgument(f"A span has at most {MAX_SPAN_DAYS} days.", field="span.last_day")
    return span
