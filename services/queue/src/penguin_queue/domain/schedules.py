"""Schedules: when they run, and what becomes of runs that were missed. Pure: the time is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from importlib import resources
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from penguin_chassis.faults import InvalidArgument

SKIP, RUN_ONCE, RUN_ALL = "skip", "run_once", "run_all"
ALLOW = "allow"
FIELDS = ("minute", "hour", "day of month", "month", "day of week")
# Runs of one outage: so many are counted, and so many made up for.
COUNTED = 1000
MADE_UP = 100
START_DEADLINE = timedelta(seconds=60)
# What the cron library raises for fields that it cannot read.
_UNREADABLE = (CronSimError, ValueError, TypeError, AssertionError)


@dataclass(frozen=True)
class Timing:
    """A cron expression of five fields, and the IANA time zone that it is meant in."""

    cron: str
    time_zone: str


@dataclass(frozen=True)
class Terms:
    """What is said of a schedule. `priority` and `max_attempts` are 0 where the queue says them; `missed_runs` is skip,
    run_once or run_all, `overlap` allow or skip."""

    name: str
    timing: Timing
    kind: str
    payload: bytes
    priority: int
    rank: int
    max_attempts: int
    missed_runs: str
    start_deadline: timedelta
    overlap: str
    paused: bool


@dataclass(frozen=True)
class Standing:
    """What has become of a schedule: its next time, its last run, and how many it missed."""

    next_at: datetime | None
    last_at: datetime | None
    last_job_id: int
    missed: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Schedule:
    """A schedule as it stands."""

    terms: Terms
    standing: Standing


@dataclass(frozen=True)
class Turn:
    """What a schedule does now: the times that get a job each, how many got none, and its next time."""

    runs: Sequence[datetime]
    missed: int
    next_at: datetime | None


@lru_cache(maxsize=1)
def zones() -> frozenset[str]:
    """The names of all time zones."""
    return frozenset((resources.files("tzdata") / "zones").read_text().split())


@lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo:
    """A time zone by its name; raises InvalidArgument.

    From the pinned package and never the host's own files: all servers have the same rules.
    """
    if name == "UTC":
        return UTC
    if name not in zones():
        raise InvalidArgument(
            "There is no such time zone; it is an IANA name as Europe/Berlin.", field="schedule.time_zone"
        )
    with (resources.files("tzdata") / "zoneinfo").joinpath(*name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)


def check_timing(timing: Timing, at: datetime) -> None:
    """Raise InvalidArgument naming the field unless this is a time that comes."""
    zone_of(timing.time_zone)
    parts = timing.cron.split()
    if len(parts) != len(FIELDS):
        raise InvalidArgument("A cron expression has five fields.", field="schedule.cron")
    for place, part in enumerate(parts):
        alone = " ".join("*" if other != place else part for other in range(len(FIELDS)))
        # A month too short for its day is told below: alone, every day there is comes some day.
        if not _readable(alone, at):
            raise InvalidArgument(f"Its {FIELDS[place]} is none that there is.", field="schedule.cron")
    if not _readable(timing.cron, at) or next(times_after(timing, at), None) is None:
        raise InvalidArgument("There is no such day: it would never run.", field="schedule.cron")


def _readable(cron: str, at: datetime) -> bool:
    try:
        CronSim(cron, at)
    except _UNREADABLE:
        return False
    return True


def times_after(timing: Timing, after: datetime) -> Iterator[datetime]:
    """The times later than `after`, in order, in UTC."""
    last = after
    for local in CronSim(timing.cron, after.astimezone(zone_of(timing.time_zone))):
        moment = local.astimezone(UTC)
        # Where clocks go back, a time of the clock on the wall may have been before.
        if moment > last:
            yield moment
            last = moment


def next_after(timing: Timing, after: datetime) -> datetime | None:
    """The first time later than `after`."""
    return next(times_after(timing, after), None)


def due(timing: Timing, next_at: datetime, at: datetime) -> tuple[int, list[datetime]]:
    """How many times have come since `next_at`, and itself, until `at` (COUNTED at most); the last MADE_UP of them."""
    following = times_after(timing, next_at)
    come = [next_at, *islice(takewhile(lambda moment: moment <= at, following), COUNTED - 1)]
    if len(come) < COUNTED:
        return len(come), come[-MADE_UP:]
    # There may be years of them: the last ones are looked for from the end.
    back = timedelta(hours=2)
    while True:
        begin = max(come[0], at - back)
        late = deque(takewhile(lambda moment: moment <= at, times_after(timing, begin)), maxlen=MADE_UP)
        if len(late) == MADE_UP or begin == come[0]:
            return COUNTED, list(late)
        back *= 2


def turn(terms: Terms, next_at: datetime, at: datetime, *, busy: bool) -> Turn:
    """What a schedule whose time has come does at `at`. `busy`: its last run's job is not over."""
    count, late = due(terms.timing, next_at, at)
    in_time = [moment for moment in late if at - moment <= terms.start_deadline]
    runs = in_time
    if terms.missed_runs == RUN_ALL:
        runs = late
    elif terms.missed_runs == RUN_ONCE and not in_time:
        runs = late[-1:]
    if terms.overlap != ALLOW:
        runs = [] if busy else runs[-1:]
    return Turn(runs, count - len(runs), next_after(terms.timing, at))
