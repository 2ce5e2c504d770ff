"""Days and spans of them."""

from __future__ import annotations

from datetime import date

import pytest

from penguin_chassis.faults import InvalidArgument
from penguin_olap.domain.days import day_of, span_of
from penguin_olap.store.partitions import months_from


def test_a_leap_year_is_the_longest_span() -> None:
    span = span_of("2032-01-01", "2032-12-31")
    assert (span.last - span.first).days == 365
    assert span_of("2031-05-05", "2031-05-05").first == date(2031, 5, 5)


@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        ("2031-01-01", "2032-01-02", "span.last_day"),
        ("2031-01-02", "2031-01-01", "span.last_day"),
        ("2031-02-29", "2031-03-01", "span.first_day"),
        ("2031-02-01", "2031-04-31", "span.last_day"),
    ],
)
def test_anything_else_is_refused_by_its_field(first: str, last: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        span_of(first, last)
    assert refused.value.field == field


def test_a_day_is_one_of_the_calendar() -> None:
    assert day_of("2032-02-29", "day") == date(2032, 2, 29)
    with pytest.raises(InvalidArgument) as refused:
        day_of("0000-00-00", "day")
    assert refused.value.field == "day"


def test_months_go_over_the_years_end() -> None:
    assert months_from(date(2031, 11, 30), 3) == [
        date(2031, 11, 1),
        date(2031, 12, 1),
        date(2032, 1, 1),
        date(2032, 2, 1),
    ]
