"""Poison, or workers that are away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penguin_queue.domain.fleet import GRACE, HALF_LIFE, SILENCE, SPARED, WELL, Fleet

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


LEASES_S = [30, 45, 60, 300, 900, 3600]


@pytest.mark.parametrize("lease_s", LEASES_S)
def test_a_job_that_kills_its_workers_is_not_spared_while_others_are_worked_at(lease_s: int) -> None:
    fleet = Fleet(0.0, 0.0)
    for n in range(600):
        fleet = fleet.told(2, 3 if n % 30 == 29 else 0, AT + n * SECOND, lease_s * SECOND)
        assert n < 60 or fleet.spares(3, AT + n * SECOND) == 0


def busy(rate: int, lease_s: int) -> Fleet:
    """After ten minutes of so many jobs a second."""
    fleet = Fleet(0.0, 0.0)
    for n in range(600):
        fleet = fleet.told(rate, 0, AT + n * SECOND, lease_s * SECOND)
    return fleet


@pytest.mark.parametrize(("rate", "in_hand"), [(800, 640), (100, 40), (4000, 200)])
@pytest.mark.parametrize("lease_s", LEASES_S)
def test_a_fleet_that_died_makes_no_dead_letters_however_long_its_leases(rate: int, in_hand: int, lease_s: int) -> None:
    fleet = busy(rate, lease_s)
    # All are killed: nobody speaks, and nobody asks for leases. What they had last spoken of runs out first.
    for n in range(1, 2 * lease_s):
        at = AT + (599 + n) * SECOND
        fleet = fleet.told(0, 0, at)
        if n >= 2 * lease_s / 3:
            assert (fleet.spares(1, at), fleet.spares(in_hand, at)) == (SPARED, SPARED), n
    # They are back, and are so with their first word.
    fleet = fleet.told(rate, 0, at + SECOND, lease_s * SECOND)
    assert (fleet.lease, fleet.spares(1, at + SECOND)) == (lease_s * SECOND, 0)


@pytest.mark.parametrize(("rate", "in_hand"), [(800, 640), (100, 40), (4000, 200)])
@pytest.mark.parametrize("lease_s", LEASES_S)
def test_where_only_some_workers_die_a_job_that_kills_them_is_not_spared(rate: int, in_hand: int, lease_s: int) -> None:
    fleet = busy(rate, lease_s)
    for n in range(1, 2 * lease_s):
        at = AT + (599 + n) * SECOND
        # Three of four are dead; the leases of their jobs run out together.
        lost = in_hand * 3 // 4 if n == lease_s else 0
        assert fleet.spares(max(lost, 3), at) == 0, n
        fleet = fleet.told(rate // 4, lost, at, lease_s * SECOND)


@pytest.mark.parametrize(("rate", "in_hand"), [(800, 640), (100, 40), (4000, 200)])
@pytest.mark.parametrize("lease_s", [1, 2, 5, 30])
def test_a_busy_minute_does_not_hide_that_nobody_speaks_any_more(rate: int, in_hand: int, lease_s: int) -> None:
    fleet, seconds = Fleet(0.0, 0.0), 600
    for n in range(seconds):
        fleet = fleet.told(rate, 0, AT + n * SECOND, lease_s * SECOND)
    assert fleet.spares(3, AT + seconds * SECOND) == 0
    # All stall: their leases run out, and others take them and say no more.
    spared = []
    for n in range(1, 7):
        at = AT + (seconds + n * lease_s) * SECOND
        spared.append(fleet.told(0, 0, at).spares(in_hand, at))
        fleet = fleet.told(0, in_hand, AT + (seconds + n * lease_s) * SECOND)
    # It is seen from the first lease on; with the shortest ones, from the fifth second, and six that count make a dead letter.
    counted = {1: 3, 2: 1}.get(lease_s, 0)
    assert spared[counted:] == [SPARED] * (6 - counted)


def test_who_has_been_silent_for_half_a_lease_is_away_and_one_word_says_otherwise() -> None:
    fleet = Fleet(0.0, 0.0).told(10_000, 0, AT, 30 * SECOND)
    assert [fleet.spares(1, AT + n * SECOND) for n in (14, 16)] == [0, SPARED]
    assert fleet.told(1, 0, AT + 15 * SECOND).spares(1, AT + 16 * SECOND) == 0
    assert fleet.with_news(1, 0, AT + 15 * SECOND).spares(1, AT + 16 * SECOND) == 0
    assert fleet.told(0, 0, AT + 15 * SECOND, 30 * SECOND).spares(1, AT + 16 * SECOND) == SPARED


def test_a_lease_that_nobody_asks_for_any_more_is_forgotten() -> None:
    fleet = Fleet(0.0, 0.0).told(0, 0, AT, SECOND)
    assert fleet.lease == SECOND
    fleet = fleet.told(1, 0, AT)
    assert fleet.told(1, 0, AT + 2 * HALF_LIFE, 300 * SECOND).lease == 4 * SECOND
    assert fleet.told(1, 0, AT + 1000 * HALF_LIFE).lease == 1024 * SECOND
    # But not while nobody speaks, nor sooner for that it is told of.
    for n in range(1, 121):
        fleet = fleet.told(0, 0, AT + n * SECOND, 300 * SECOND)
    assert fleet.lease == SECOND
    assert fleet.told(1, 0, AT + 2 * HALF_LIFE).lease == 4 * SECOND


@pytest.mark.parametrize("workers", [1, 4, 400])
def test_when_more_run_out_than_are_spoken_of_nobody_is_to_blame_however_few_they_are(workers: int) -> None:
    fleet = Fleet(0.0, 0.0).told(workers, 0, AT)
    assert fleet.spares(workers, AT) == 0
    assert fleet.spares(workers + 1, AT) == SPARED
    assert fleet.told(0, workers, AT + SECOND).spares(1, AT + SECOND) == SPARED
    assert fleet.with_news(workers, 0, AT).spares(workers + 1, AT) == 0


def test_a_stall_is_forgotten_with_time_and_so_is_what_was_heard() -> None:
    fleet = Fleet(0.0, 0.0).told(500, 5000, AT)
    later = fleet.told(300, 0, AT + 10 * HALF_LIFE)
    assert later.spares(3, AT + 10 * HALF_LIFE) == 0
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
    assert (WELL.spares(10**6, AT), WELL.excused) == (0, (None, None))
