"""The drill's judges: each knows what is kept from what is broken, and from what was never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from penguin_cli.drill import judging
from penguin_cli.drill.account_check import judge_load
from penguin_cli.drill.findings import RED, Cell, slower_problems, unfair_problems
from penguin_cli.drill.judging import Waiting
from penguin_cli.drill.load import Account
from penguin_cli.drill.matrix import PROMISES

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
UNTOUCHED = Waiting(attempts=0, snoozes=0, reason="")
PUT_OFF = Waiting(attempts=0, snoozes=2, reason="oltp.tier_db_down")
DONE = Waiting(attempts=0, snoozes=0, reason="", done=True)
# By promise: what its judge is given where a cell looked and nothing had happened, be it the fault, the act or the look.
IDLE: dict[str, Callable[[], Sequence[str]]] = {
    "works": lambda: judging.worked([])[1],
    "refuses": lambda: judging.refused([], 1.0)[1],
    "stale": lambda: judging.stale(NOW, datetime.fromtimestamp(0, UTC))[1] and judging.fresh(None)[1],
    "backs_off": lambda: judging.backed_off("oltp", 1, [UNTOUCHED])[1],
    "etl_waits": lambda: judging.backed_off("olap", 1, [UNTOUCHED])[1] and judging.caught_up(0, None)[1],
    "idles": lambda: judging.idled({}, {})[1],
    "intents": lambda: judging.kept_intents(ended=False, kept=0, told=1)[1],
    "streams": lambda: judging.resumed(["a"], ["a"], broke=False, while_away=0)[1],
    "nothing_done": lambda: judging.sends_refused([])[1],
    "body_missing": lambda: judging.body_marked(None, there=False, took_s=0.0, limit_s=2.0)[1],
    "no_room": lambda: judging.refused([], 1.0)[1],
    "keeps_attempts": lambda: judging.backed_off("oltp", 1, [UNTOUCHED], may_be_done=True)[1],
    "sends_or_sheds": lambda: judging.sent_or_shed(0, [], {})[1],
    "outbox": lambda: judging.waited_in_outbox(4, 0, 0, must_wait=True)[1],
    "launched_once": lambda: judging.launched_once([], {}, 0)[1],
    "as_fast": lambda: slower_problems([], [], [])[1],
    "counted": lambda: judging.counted(None)[1],
    "fair": lambda: unfair_problems([], [], 0, 0)[1],
}


@pytest.mark.parametrize("promise", PROMISES)
def test_no_promise_counts_as_kept_where_nothing_has_happened(promise: str) -> None:
    assert IDLE[promise](), "a cell that saw nothing is green"


def test_a_cell_that_has_seen_nothing_is_red() -> None:
    cell = Cell("oltp", "works")
    cell.over()
    assert (cell.verdict, cell.problems) == (RED, ["nothing was shown"])
    assert len(judge_load(Account())) == 5


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        ([PUT_OFF], ""),
        ([UNTOUCHED], "1 jobs were never put off for oltp: nobody looked"),
        ([replace(PUT_OFF, reason="early")], "never put off for oltp"),
        ([replace(PUT_OFF, reason="content.unreachable")], "never put off for oltp"),
        ([replace(UNTOUCHED, held=True)], "never put off for oltp"),
        ([replace(PUT_OFF, attempts=1)], "an attempt was counted"),
        ([DONE], "1 jobs are gone"),
        ([], "1 jobs are gone"),
    ],
)
def test_a_job_backs_off_where_somebody_looked_at_it(jobs: list[Waiting], problem: str) -> None:
    found = judging.backed_off("oltp", 1, jobs)[1]
    assert bool(found) == bool(problem)
    assert problem in "; ".join(found)


@pytest.mark.parametrize(
    ("job", "kept"),
    [
        (DONE, True), (PUT_OFF, True), (replace(UNTOUCHED, held=True), True), (UNTOUCHED, False),
        (replace(DONE, attempts=1), False),
    ],
)  # fmt: skip
def test_a_job_that_may_be_done_burns_no_attempt_and_is_not_left_alone(job: Waiting, *, kept: bool) -> None:
    assert (judging.backed_off("oltp", 1, [job], may_be_done=True)[1] == []) == kept


def test_no_email_counts_as_waiting_for_jobs_that_were_never_there() -> None:
    assert judging.backed_off("oltp", 0, [])[1] != []


def test_a_refresh_catches_up_without_an_attempt() -> None:
    assert judging.caught_up(0, 1.5)[1] == []
    assert judging.caught_up(None, 1.5)[1] == ["the job was not done 30 s after the fault"]
    assert judging.caught_up(1, 1.5)[1] == ["an attempt was counted before the refresh was done"]
    assert judging.caught_up(0, None)[1] != [], "the job is done, and the figures stand still"


def test_reports_stand_still_while_their_ledger_is_away() -> None:
    assert judging.stale(NOW, NOW - timedelta(seconds=3))[1] == []
    assert "moved on" in judging.stale(NOW, NOW + timedelta(seconds=3))[1][0]
    assert judging.fresh(0.5)[1] == []


def test_both_kinds_of_processes_idle_and_stay() -> None:
    there = {"worker": 1, "relay": 2}
    assert judging.idled(there, there)[1] == []
    assert judging.idled({"worker": 1}, {"worker": 1})[1] == ["there was no relay: nothing was shown"]
    assert "started anew" in judging.idled(there, {**there, "worker": 3})[1][0]


def test_a_campaign_ends_in_the_outage_and_its_intent_is_kept() -> None:
    assert judging.kept_intents(ended=True, kept=1, told=1)[1] == []
    assert "no intent was kept" in judging.kept_intents(ended=True, kept=0, told=1)[1][0]
    assert "told 2 times" in judging.kept_intents(ended=True, kept=1, told=2)[1][0]
    assert "did not end in the outage" in judging.kept_intents(ended=False, kept=1, told=1)[1][0]


def test_a_stream_breaks_and_misses_and_repeats_nothing() -> None:
    def found(seen: Sequence[str], *, broke: bool = True, while_away: int = 1) -> list[str]:
        return judging.resumed(["a", "b"], seen, broke=broke, while_away=while_away)[1]

    assert found(["a", "other", "b"]) == []
    assert "missed or repeated" in found(["a"])[0]
    assert "missed or repeated" in found(["a", "b", "b"])[0]
    assert "never broke" in found(["a", "b"], broke=False)[0]
    assert "nothing was written while" in found(["a", "b"], while_away=0)[0]


def test_accepted_emails_wait_and_arrive_once() -> None:
    assert judging.waited_in_outbox(4, 4, 4, must_wait=True)[1] == []
    assert judging.waited_in_outbox(4, 0, 0, must_wait=False)[1] == []
    assert judging.waited_in_outbox(0, 0, 9, must_wait=False)[1] != []
    assert judging.sent_or_shed(3, ["a"], {"a": 1})[1] == []
    assert judging.sent_or_shed(3, [], {})[1] == [], "all refused, which the fault allows"
    assert judging.sent_or_shed(3, ["a"], {})[1] == ["1 accepted sends did not arrive once"]
    assert judging.launched_once(["a"], {"a": 1}, 1)[1] == []
    assert judging.launched_once(["a"], {"a": 1}, 2)[1] != []
    assert judging.launched_once(["a"], {"a": 2}, 1)[1] != []


def test_a_body_that_is_missing_is_marked_in_time() -> None:
    assert judging.body_marked("TIER_UNAVAILABLE", there=False, took_s=1.0, limit_s=2.0)[1] == []
    assert judging.body_marked("", there=False, took_s=1.0, limit_s=2.0)[1] == ["the body is not marked unavailable"]
    assert judging.body_marked("", there=True, took_s=1.0, limit_s=2.0)[1] == ["the body is not marked unavailable"]
    assert judging.body_marked("X", there=False, took_s=3.0, limit_s=2.0)[1] == ["the email was read only after 3.0 s"]
