"""How cells roll up, and which loads can be stored."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penguin.olap.v1 import facts_service_pb2 as pb
from penguin_chassis.faults import InvalidArgument
from penguin_olap.domain.facts import (
    MEASURES,
    NOBODY,
    Cell,
    DayLoad,
    Measures,
    day_load,
    estimated_cost_usd_micros,
    rolled_up,
    total,
)
from penguin_olap.domain.reports import Usage, newest, total_usage

AT = datetime(2031, 5, 18, tzinfo=UTC)
DAY = date(2031, 5, 17)
IDS = [NOBODY, *(UUID(int=n) for n in range(1, 4))]
measures = st.builds(Measures, *(st.integers(0, 10**8) for _ in MEASURES))
cells = st.lists(
    st.builds(Cell, st.sampled_from(IDS), st.sampled_from(IDS), st.sampled_from(IDS), measures),
    unique_by=lambda c: (c.campaign_id, c.step_id, c.email_account_id),
)


def load(*given_cells: Cell, content_bytes: int = 0, computed_at: datetime = AT) -> DayLoad:
    return day_load(DAY, given_cells, content_bytes, computed_at, AT)


def test_measures_are_those_of_the_contract() -> None:
    assert tuple(field.name for field in pb.EmailMeasures.DESCRIPTOR.fields) == MEASURES


@settings(deadline=None)
@given(cells)
def test_every_roll_up_sums_to_the_same(given_cells: list[Cell]) -> None:
    whole = total(cell.measures for cell in given_cells)
    assert whole.sent == sum(cell.measures.sent for cell in given_cells)
    for key in ("campaign_id", "step_id", "email_account_id"):
        groups = rolled_up(given_cells, lambda cell, key=key: getattr(cell, key))  # type: ignore[misc]
        assert total(groups.values()) == whole


def test_nothing_sums_to_zeros() -> None:
    assert set(asdict(total([])).values()) == {0}
    assert total_usage([]) == Usage()
    assert newest([]) is None


def test_the_digest_is_of_what_a_load_says() -> None:
    one, other = Cell(uuid4(), NOBODY, NOBODY, Measures(sent=1)), Cell(NOBODY, NOBODY, uuid4(), Measures(sent=2))
    assert load(one, other).digest == load(other, one).digest
    more = Cell(one.campaign_id, NOBODY, NOBODY, Measures(sent=2))
    assert len({load(one).digest, load(more).digest, load(one, content_bytes=1).digest, load().digest}) == 4


def test_a_cell_stands_once() -> None:
    cell = Cell(uuid4(), uuid4(), uuid4(), Measures())
    with pytest.raises(InvalidArgument) as refused:
        load(cell, Cell(NOBODY, NOBODY, NOBODY, Measures()), cell)
    assert refused.value.field == "cells[2]"


def test_a_count_is_not_made_in_the_future_but_for_clocks_that_differ() -> None:
    assert load(computed_at=AT + timedelta(minutes=5)).computed_at > AT
    with pytest.raises(InvalidArgument) as refused:
        load(computed_at=AT + timedelta(minutes=6))
    assert refused.value.field == "computed_at"


def test_a_days_emails_have_their_price() -> None:
    assert estimated_cost_usd_micros(1_000, 100) == 100_000
    usage = total_usage([Usage(1, 2, 3, 4, 5), Usage(10, 20, 30, 40, 50)])
    assert usage == Usage(11, 22, 33, 44, 55)
