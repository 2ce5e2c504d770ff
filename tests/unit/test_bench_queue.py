"""The pure parts of the queue's benchmark: medians, ratios, the table and the verdicts."""

from __future__ import annotations

import pytest
from tests.bench.queue.figures import Failed, answer_of, best, medians, ratio, rows, table, verdict
from tests.bench.queue.roster import (
    LIBRARIES,
    LIBRARY,
    NPM_PINS,
    OURS,
    PEERS,
    PYTHON_PINS,
    SCENARIOS,
    TRACED,
    US,
    WANTED,
    Wanted,
    versions,
)
from tests.bench.queue.stress.__main__ import ended
from tests.bench.queue.stress.maths import Verdicts

BULK, DRAIN, SINGLE, IDLE = SCENARIOS
RATES = {OURS: {"rate": [10.0, 30.0, 20.0]}, "pg-boss": {"rate": [8.0, 12.0]}, "bullmq": {"rate": [40.0]}}
WAITS = {OURS: {"p50": [2.0], "p99": [4.0]}, "saq": {"p50": [1.0], "p99": [9.0]}}


def test_medians_leave_out_who_failed_every_round() -> None:
    assert medians({**RATES, "saq": {}, "pgqueuer": {"rate": []}}) == {
        OURS: {"rate": 20.0}, "pg-boss": {"rate": 10.0}, "bullmq": {"rate": 40.0},
    }  # fmt: skip


def test_a_ratio_is_greater_for_what_is_better() -> None:
    assert ratio(20.0, 10.0, BULK) == 2.0
    assert ratio(2.0, 1.0, IDLE) == 0.5


def test_the_best_is_the_quickest_of_those_measured() -> None:
    assert best({"a": 1.0, "b": 2.0}, ("a", "b", "c"), BULK) == "b"
    assert best({"a": 1.0, "b": 2.0}, ("a", "b", "c"), IDLE) == "a"
    assert best({"a": 1.0}, ("c",), BULK) is None


def test_rows_stand_best_first_and_the_best_peer_is_the_bar() -> None:
    assert [(row.name, row.ratio) for row in rows(RATES, BULK)] == [("bullmq", 1.0), (OURS, 0.5), ("pg-boss", 0.25)]
    assert [(row.name, row.ratio) for row in rows(WAITS, IDLE)] == [("saq", 1.0), (OURS, 0.5)]
    assert [row.ratio for row in rows({OURS: RATES[OURS]}, BULK)] == [None]


def test_our_own_workers_are_nobodys_bar() -> None:
    measured = {OURS: {"rate": [20.0]}, LIBRARY: {"rate": [18.0]}, "pg-boss": {"rate": [10.0]}, TRACED: {}}
    assert [(row.name, row.ratio) for row in rows(measured, DRAIN)] == [(OURS, 2.0), (LIBRARY, 1.8), ("pg-boss", 1.0)]
    peers, library, traced, _ = [wanted for wanted in WANTED if wanted.name != OURS]
    assert (
        verdict(measured, DRAIN, peers) == "drain, worker library: 1.80x the best peer (pg-boss), wanted 1.50x: holds"
    )
    assert verdict(measured, DRAIN, library) == (
        "drain, worker library: 0.90x the bare stream (penguin queue), wanted 0.85x: holds"
    )
    assert verdict(measured, DRAIN, traced) == "drain, library, tracing: not measured"


def test_our_workers_are_measured_where_they_differ_from_the_bare_stream() -> None:
    assert {worker.name for worker in LIBRARIES} == {LIBRARY, TRACED}
    assert all(worker.ours for worker in (US, *LIBRARIES))
    assert not any(peer.ours for peer in PEERS)
    assert [[s.name for s in SCENARIOS if worker.takes_part(s.name)] for worker in LIBRARIES] == [
        ["drain", "idle"],
        ["drain"],
    ]
    assert all(US.takes_part(s.name) for s in SCENARIOS)


def test_the_table_has_absolute_figures_ratios_and_notes() -> None:
    title, first, *_ = table(WAITS, IDLE, {"saq": "0.26.4"})
    assert title == "idle latency, enqueue to handler start (200 jobs), ms"
    assert first.split() == ["saq", "1.00", "9.00", "1.00x", "0.26.4"]


def test_verdicts_say_what_is_wanted_and_what_is() -> None:
    assert verdict(RATES, SINGLE, Wanted("single", 0.8, ("bullmq",), "BullMQ")) == (
        "single: 0.50x BullMQ, wanted 0.80x: FALLS SHORT"
    )
    assert verdict(RATES, SINGLE, Wanted("single", 1.5, ("pg-boss",), "the best PostgreSQL peer")) == (
        "single: 2.00x the best PostgreSQL peer (pg-boss), wanted 1.50x: holds"
    )
    assert verdict(WAITS, IDLE, Wanted("idle", limit=2.0)) == "idle: 2.00 ms, wanted at most 2: holds"
    assert verdict({}, IDLE, Wanted("idle", limit=2.0)) == "idle: not measured"
    assert verdict({OURS: RATES[OURS]}, BULK, WANTED[0]) == "bulk: nothing of the best peer to compare with"


def test_an_answer_is_the_last_line_of_json() -> None:
    assert answer_of('a warning\n{"rate": 1}\n{"rate": 2.5}\nbye\n', "") == {"rate": 2.5}
    with pytest.raises(Failed, match=r"^refused$"):
        answer_of("", "Traceback\nrefused\n")


def test_every_peer_is_pinned() -> None:
    assert {peer.name for peer in PEERS} <= versions().keys()
    assert all("==" in pin for pin in PYTHON_PINS)
    assert all("@" in pin for pin in NPM_PINS)


def test_a_stress_run_ends_badly_where_anything_fell_short(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = Verdicts()
    assert verdicts.word("kept", holds=True) == "holds"
    assert ended(verdicts.short) == 0
    assert capsys.readouterr().out == ""
    assert verdicts.word("p99", holds=False) == "FALLS SHORT"
    assert verdicts.word("kept", holds=True) == "holds"
    assert ended(verdicts.short) == 1
    assert capsys.readouterr().out == "FALLS SHORT: p99\n"
