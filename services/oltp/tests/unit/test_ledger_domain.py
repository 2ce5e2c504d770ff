"""What a ledger cursor promises: never more than has been read, whatever the order in which transactions end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_chassis.faults import InvalidArgument
from penguin_oltp.domain.ledger import Cursor, Horizon, cursor_of

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def moment(tick: int) -> datetime:
    return BEGIN + timedelta(seconds=tick)


def test_with_nothing_open_all_before_the_clock_is_read() -> None:
    assert Cursor().advance(Horizon(moment(5), 100, 100)) == Cursor(100, moment(5))


def test_what_is_open_holds_the_promise_until_it_has_ended() -> None:
    first = Cursor().advance(Horizon(moment(1), 100, 110))
    assert (first.position, first.through) == (100, None)
    second = first.advance(Horizon(moment(2), 105, 120))
    assert (second.position, second.through) == (105, None)
    third = second.advance(Horizon(moment(3), 110, 130))
    assert (third.position, third.through) == (110, moment(1))
    assert third.advance(Horizon(moment(4), 140, 140)).through == moment(4)


# A transaction: when it begins, how long it is open, in ticks.
TRANSACTIONS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 15)), min_size=1, max_size=20)


@given(TRANSACTIONS, st.sets(st.integers(0, 50), min_size=1, max_size=20))
def test_nothing_committed_before_the_promise_is_unread(spans: list[tuple[int, int]], reads: set[int]) -> None:
    begun = sorted(begin for begin, _ in spans)
    lives = [(1000 + n, begin, begin + span) for n, (begin, span) in enumerate(sorted(spans))]
    assert len(begun) == len(lives)
    cursor = Cursor()
    promised: datetime | None = None
    for tick in sorted(reads):
        open_now = [xid for xid, begin, end in lives if begin <= tick < end]
        ended = [xid for xid, _, end in lives if end <= tick]
        above_ended = max(ended, default=999) + 1
        oldest_open = min([xid for xid in open_now if xid < above_ended], default=above_ended)
        cursor = cursor_of(cursor.advance(Horizon(moment(tick), oldest_open, above_ended)).encode())
        if cursor.through is not None:
            committed = [xid for xid, _, end in lives if moment(end) < cursor.through]
            assert all(xid < cursor.position for xid in committed)
            assert promised is None or promised <= cursor.through
            promised = cursor.through


@pytest.mark.parametrize(
    "text", ["nonsense", "e30", "WzFd", "Wy0xLDAsMCwwXQ", "WzkyMjMzNzIwMzY4NTQ3NzU4MDgsMCwwLDBd", "!"]
)
def test_a_cursor_of_ones_own_making_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        cursor_of(text)
    assert refused.value.field == "cursor"


def test_nothing_begins_at_the_beginning() -> None:
    assert cursor_of("") == Cursor()
