"""Poison, or workers that are away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penguin_queue.domain.fleet import GRACE, HALF_LIFE, SILENCE, SPARED, WELL, Fleet

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_a_job_that_kills_its_workers_is_not_spared_while_others_are_worked_at() -> None:
    fleet = Fleet(0.0, 0.0)
    for n in range(20):
        fleet = fleet.told(50, 3, AT + n * 30 * SECOND)
        assert fleet.spares(3) == 0


@pytest.mark.parametrize("workers", [1, 4, 400])
def test_when_more_run_out_than_are_spoken_of_nobody_is_to_blame_however_few_they_are(workers: int) -> None:
    fleet = Fleet(0.0, 0.0).told(workers, 0, AT)
    assert fleet.spares(workers) == 0
    assert fleet.spares(workers + 1) == SPARED
    assert fleet.told(0, workers, AT + SECOND).spares(1) == SPARED


def test_a_stall_is_forgotten_with_time_and_so_is_what_was_heard() -> None:
    fleet = Fleet(0.0, 0.0).told(500, 5000, AT)
    later = fleet.told(300, 0, AT + 10 * HALF_LIFE)
    assert later.spares(3) == 0
    silent = later.told(0, 0, AT + 1000 * HALF_LIFE)
    assert (silent.heard, silent.lost) == (0.0, 0.0)


def test_a_clock_that_goes_back_makes_nothing_grow() -> None:
    fleet = Fleet(0.0, 0.0).told(8, 4, AT)
    back = fleet.told(0, 0, AT - 10 * HALF_LIFE)
    assert (back.heard, back.lost, back.at) == (8.0, 4.0, AT)


def test_a_silence_of_the_queue_excuses_what_ran_out_in_it_and_until_workers_are_back() -> None:
    fleet = Fleet(0.0, 0.0).told(1, 0, AT)
    assert fleet.told(1, 0, AT + SILENCE).excused == (None, None)
    back = AT + SILENCE + SECOND
    assert fleet.told(1, 0, back).excused == (AT, back + GRACE)
    # The next word leaves it at that.
    assert fleet.told(1, 0, back).told(1, 0, back + SECOND).excused == (AT, back + GRACE)


def test_where_nothing_is_told_all_that_is_lost_counts() -> None:
    assert (WELL.spares(10**6), WELL.excused) == (0, (None, None))
