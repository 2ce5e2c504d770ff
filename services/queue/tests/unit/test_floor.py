"""From which row on there is anything to look for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from penguin_queue.domain.floor import LAG, WHOLE, Floor

AT = datetime(2026, 3, 1, tzinfo=UTC)
SOON = timedelta(milliseconds=1)


def test_what_was_seen_long_enough_ago_is_passed_and_what_is_left_is_not() -> None:
    floor = Floor()
    assert floor.start(AT) == 0
    floor.looked(AT, 1, 10)
    floor.looked(AT + LAG - SOON, 11, 20)
    assert floor.start(AT + LAG - SOON) == 0
    floor.looked(AT + LAG, 8, 20)
    assert floor.start(AT + LAG) == 7
    floor.looked(AT + 2 * LAG, None, None)
    assert floor.start(AT + 2 * LAG) == 20
    # Nothing has come since: nothing more is passed.
    floor.looked(AT + 9 * LAG, None, None)
    assert floor.start(AT + 9 * LAG) == 20


def test_all_is_looked_at_now_and_then_and_what_is_found_then_is_not_passed_again() -> None:
    floor = Floor(below=20)
    assert [floor.start(AT), floor.start(AT + WHOLE - SOON), floor.start(AT + WHOLE)] == [0, 20, 0]
    floor.looked(AT + WHOLE, 15, 30)
    assert floor.start(AT + WHOLE + SOON) == 14
