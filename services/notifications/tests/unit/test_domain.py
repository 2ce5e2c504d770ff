"""Pages and admin events, without a database."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from penguin.notifications.v1 import admin_event_service_pb2 as pb
from penguin_chassis.wire import word
from penguin_notifications.domain.admin_events import RETENTION, SEVERITIES, EventFilter
from penguin_notifications.domain.pages import OVERHEAD_BYTES, PAGE_BYTES, fitting


@settings(deadline=None)
@given(st.lists(st.integers(0, PAGE_BYTES // 3), min_size=1), st.integers(1, 50))
def test_a_page_holds_as_many_as_were_asked_for_and_as_fit(weights: list[int], size: int) -> None:
    count = fitting(weights, size)
    assert 1 <= count <= min(size, len(weights))
    assert sum(w + OVERHEAD_BYTES for w in weights[:count]) <= PAGE_BYTES
    if count < min(size, len(weights)):
        assert sum(w + OVERHEAD_BYTES for w in weights[: count + 1]) > PAGE_BYTES


def test_a_row_too_heavy_for_any_page_has_one_of_its_own() -> None:
    assert fitting([PAGE_BYTES * 2, 1], 10) == 1
    assert fitting([], 10) == 0


def test_severities_are_those_of_the_contract_from_light_to_heavy() -> None:
    assert tuple(word(pb.Severity, number) for number in sorted(pb.Severity.values()) if number) == SEVERITIES
    assert list(RETENTION) == list(SEVERITIES)
    assert sorted(RETENTION.values()) == list(RETENTION.values())


def test_a_filter_lets_through_what_weighs_enough() -> None:
    assert EventFilter(False, "error", None).severities == ["error", "critical"]
    assert EventFilter(False, "", None).severities == list(SEVERITIES)
