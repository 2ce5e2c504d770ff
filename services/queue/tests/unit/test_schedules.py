"""When schedules run, clocks that are changed among it, and what becomes of missed runs: pure, times are passed in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest

from penguin_chassis.faults import InvalidArgument
from penguin_queue.domain.schedules import (
    COUNTED,
    MADE_UP,
    RUN_ALL,
    RUN_ONCE,
    SKIP,
    Terms,
    Timing,
    check_timing,
    due,
    next_after,
    times_after,
    turn,
    zones,
)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TERMS = Terms(
    "s", Timing("* * * * *", "UTC"), "k", b"{}", 0, 0, 0, RUN_ONCE, timedelta(seconds=60), "allow", paused=False
)


def times(cron: str, zone: str, after: str, count: int) -> list[str]:
    moments = islice(times_after(Timing(cron, zone), datetime.fromisoformat(after)), count)
    return [f"{moment:%m-%dT%H:%M}" for moment in moments]


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 32 * *", "day of month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of week"),
        ("* * * FOO *", "month"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("* * * *", "five fields"),
        ("0 * * * * *", "five fields"),
        ("@daily", "five fields"),
        ("0 0 30 2 *", "never run"),
        ("0 0 31 4,6,9,11 *", "never run"),
        ("0 0 */31 * MON#2", "never run"),
    ],
)
def test_what_is_no_time_is_refused_with_its_field(cron: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        check_timing(Timing(cron, "UTC"), AT)
    assert refused.value.field == "schedule.cron"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../UTC", "/etc/localtime", "Europe", "europe/berlin", "zones"])
def test_a_zone_is_one_by_its_exact_name(zone: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_timing(Timing("* * * * *", zone), AT)
    assert refused.value.field == "schedule.time_zone"


def test_every_zone_there_is_is_taken() -> None:
    assert {"UTC", "Europe/Berlin", "Asia/Kolkata", "America/Argentina/Buenos_Aires", "Etc/GMT+5"} <= zones()
    for zone in sorted(zones()):
        check_timing(Timing("30 2 * * *", zone), AT)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("*/20 9-10 * * *", ["03-02T09:00", "03-02T09:20", "03-02T09:40", "03-02T10:00"]),
        ("0 0 L * *", ["03-31T00:00", "04-30T00:00"]),
        ("0 0 LW * *", ["03-31T00:00", "04-30T00:00", "05-29T00:00"]),
        ("0 8 * * MON#1", ["03-02T08:00", "04-06T08:00"]),
        ("0 8 * * 5L", ["03-27T08:00", "04-24T08:00"]),
        ("0 8 * JUN MON-TUE", ["06-01T08:00", "06-02T08:00", "06-08T08:00"]),
        # Days of month and of week add up.
        ("0 0 13 * FRI", ["03-06T00:00", "03-13T00:00", "03-20T00:00", "03-27T00:00", "04-03T00:00"]),
        ("0 0 29 2 *", ["02-29T00:00"]),
    ],
)
def test_the_usual_syntax_is_understood(cron: str, expected: list[str]) -> None:
    check_timing(Timing(cron, "UTC"), AT)
    assert times(cron, "UTC", "2026-03-01T12:00+00:00", len(expected)) == expected


def test_a_daily_time_that_a_change_of_clocks_leaves_out_is_run_right_after() -> None:
    # On 29 March 02:00 to 03:00 is left out: 02:30 is made up for at 03:00 summer time, 01:00 UTC.
    assert times("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00+00:00", 3) == [
        "03-28T01:30", "03-29T01:00", "03-30T00:30",
    ]  # fmt: skip


def test_a_daily_time_that_comes_twice_is_run_once() -> None:
    # On 25 October 02:30 is at 00:30 UTC, and at 01:30 UTC again.
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00+00:00", 2) == ["10-25T00:30", "10-26T01:30"]
    for between in ("2026-10-25T00:30+00:00", "2026-10-25T01:15+00:00", "2026-10-25T01:30+00:00"):
        assert times("30 2 * * *", "Europe/Berlin", between, 1) == ["10-26T01:30"]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_job_of_every_minute_is_run_every_minute(day: str) -> None:
    begin = datetime.fromisoformat(f"{day}T00:00+00:00")
    moments = list(islice(times_after(Timing("* * * * *", "Europe/Berlin"), begin), 240))
    assert moments == [begin + n * MINUTE for n in range(1, 241)]


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Antarctica/Troll"]
)
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/7 * * * *", "15 1-3 * * *", "0 0 * * SUN"])
def test_where_one_looks_from_changes_no_time(zone: str, cron: str) -> None:
    timing = Timing(cron, zone)
    for begin in (datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)):
        end = begin + timedelta(days=3)
        together = [moment for moment in islice(times_after(timing, begin), 2000) if moment <= end]
        singly, after = [], begin
        while (moment := next_after(timing, after)) is not None and moment <= end:
            singly.append(moment)
            after = moment
        assert singly == together
        assert all(left < right for left, right in pairwise(together))


def test_what_is_due_is_counted_up_to_a_bound_and_the_latest_known() -> None:
    timing = TERMS.timing
    assert due(timing, AT, AT) == (1, [AT])
    assert due(timing, AT, AT + 5 * MINUTE) == (6, [AT + n * MINUTE for n in range(6)])
    later = AT + timedelta(days=400)
    count, latest = due(timing, AT, later)
    assert (count, latest) == (COUNTED, [later - n * MINUTE for n in reversed(range(MADE_UP))])
    # Times in bursts, far between: the last ones are found however far back they are.
    count, latest = due(Timing("0-49 0 1 1 *", "UTC"), AT, AT + timedelta(days=40 * 366))
    assert (count, len(latest), latest[-1].month, latest[0].year + 1) == (COUNTED, MADE_UP, 1, latest[-1].year)


@pytest.mark.parametrize(
    ("policy", "runs", "missed"),
    [(SKIP, [], 31), (RUN_ONCE, [30], 30), (RUN_ALL, list(range(31)), 0)],
)
def test_what_was_missed_goes_by_the_policy(policy: str, runs: list[int], missed: int) -> None:
    terms = replace(TERMS, missed_runs=policy, timing=Timing("*/5 * * * *", "UTC"))
    at = AT + 30 * 5 * MINUTE + timedelta(seconds=90)
    taken = turn(terms, AT, at, busy=False)
    assert list(taken.runs) == [AT + n * 5 * MINUTE for n in runs]
    assert (taken.missed, taken.next_at) == (missed, AT + 31 * 5 * MINUTE)


@pytest.mark.parametrize("policy", [SKIP, RUN_ONCE])
def test_a_run_in_time_stands_for_itself_and_for_what_was_missed(policy: str) -> None:
    at = AT + 10 * MINUTE
    taken = turn(replace(TERMS, missed_runs=policy, start_deadline=timedelta(seconds=150)), AT, at, busy=False)
    assert list(taken.runs) == [at - 2 * MINUTE, at - MINUTE, at]
    assert taken.missed == 8


def test_no_more_than_a_hundred_are_made_up_for() -> None:
    at = AT + timedelta(days=30)
    taken = turn(replace(TERMS, missed_runs=RUN_ALL), AT, at, busy=False)
    assert (len(taken.runs), taken.runs[-1], taken.missed) == (100, at, COUNTED - 100)


def test_runs_that_must_not_overlap_are_one_or_none() -> None:
    terms = replace(TERMS, missed_runs=RUN_ALL, overlap="skip")
    free, taken = turn(terms, AT, AT + 3 * MINUTE, busy=False), turn(terms, AT, AT + 3 * MINUTE, busy=True)
    assert (list(free.runs), free.missed) == ([AT + 3 * MINUTE], 3)
    assert (list(taken.runs), taken.missed, taken.next_at) == ([], 4, AT + 4 * MINUTE)


def test_on_the_minute_it_is_due_a_run_is_in_time_up_to_its_deadline() -> None:
    terms = replace(TERMS, missed_runs=SKIP, timing=Timing("0 * * * *", "UTC"))
    assert list(turn(terms, AT, AT + timedelta(seconds=60), busy=False).runs) == [AT]
    assert list(turn(terms, AT, AT + timedelta(seconds=61), busy=False).runs) == []
