"""The drill's pure parts: the matrix is complete, checks judge as they should, and the report shows what was found."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from penguin_cli.drill import disks, run
from penguin_cli.drill.account_check import judge_mails
from penguin_cli.drill.acts import Sample, letter
from penguin_cli.drill.faults import FAULTS, Scene
from penguin_cli.drill.findings import (
    GREEN,
    NOT_RUN,
    RECOVERY_S,
    RED,
    Act,
    Cell,
    Findings,
    RowFinding,
    bucketed,
    refusal_problems,
    slower_problems,
    unfair_problems,
)
from penguin_cli.drill.html import chart, page
from penguin_cli.drill.load import MIX, Load, Mail, interleaved
from penguin_cli.drill.matrix import COLUMNS, PROMISES, ROWS, TIERS, TITLES, chosen, problems
from penguin_cli.drill.probes import PROBES
from penguin_cli.drill.probing import Refuses, Works
from penguin_cli.drill.stand import eventually
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutgoingEmail

TENANT = UUID(int=1)


def test_every_cell_of_the_matrix_has_a_check() -> None:
    assert problems() == []
    assert PROBES.keys() == PROMISES.keys() == {key for row in ROWS for key in row.promises}
    assert FAULTS.keys() == {row.fault for row in ROWS}
    assert tuple(TITLES) == COLUMNS
    keys = {row.key for row in ROWS}
    assert keys >= {f"{how}-{tier}" for how in ("killed", "stopped", "frozen", "full") for tier in TIERS}
    assert keys >= {
        "redis-flushed", "redis-killed", "redis-frozen", "collector-dead", "collector-hanging", "noisy-tenant",
        "worker-killed", "relay-killed", "launch-killed",
    }  # fmt: skip


def test_a_missing_cell_is_found() -> None:
    row = ROWS[0]
    short, unknown = replace(row, key="a", promises=row.promises[1:]), replace(row, key="b", promises=("x",) * 6)
    assert problems([short, unknown, row, row]) == [
        "a: 5 promises for 6 columns",
        *["b: nobody knows x"] * 6,
        f"{row.key}: twice",
    ]


def test_the_tier_that_is_down_is_the_one_that_refuses() -> None:
    for row in ROWS:
        if row.key.startswith(("killed-", "stopped", "frozen", "full")) and row.tier:
            away = {"no_room"} if row.fault == "fill_disk" else {"refuses", "idles", "streams"}
            assert row.promise(row.tier) in away, row.key
            assert not away & {row.promise(column) for column in COLUMNS if column != row.tier}, row.key


def test_rows_are_chosen_by_key_or_its_beginning() -> None:
    assert chosen("") == ROWS
    assert [row.key for row in chosen("redis, killed-oltp")] == [
        "killed-oltp", "redis-flushed", "redis-killed", "redis-frozen",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no row is called nothing"):
        chosen("redis,nothing")


def finding(*, broken: bool = False) -> RowFinding:
    found = RowFinding.of(ROWS[0])
    for cell in found.cells:
        cell.said.append("seen")
        cell.over()
        cell.recovered(0.5)
    if broken:
        found.cells[1].recovered(None)
    return found


def test_verdicts() -> None:
    assert RowFinding.of(ROWS[0]).verdict == RED, "what was not run to its end is not green"
    assert finding().verdict == GREEN
    assert finding(broken=True).verdict == RED
    beside = finding()
    beside.problems.append("an email was lost")
    assert beside.verdict == RED
    late = finding()
    late.cells[0].recovered(RECOVERY_S + 0.1)
    assert late.verdict == RED, "it works again, and not in time"
    left_out = finding()
    left_out.not_run("no small disk")
    assert left_out.verdict == NOT_RUN


async def test_what_holds_too_late_does_not_hold_though_its_try_began_in_time() -> None:
    tries = 0

    async def holds() -> bool:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0.15)
        return tries > 1

    assert await eventually(holds, 0.2, 0.001) is None
    took = await eventually(holds, 60.0)
    assert took is not None
    assert took >= 0.1


def test_a_row_is_untold_where_the_machine_was_too_busy_and_nothing_else_is_wrong() -> None:
    found = RowFinding.of(ROWS[0])
    assert not found.untold
    _, busy = slower_problems([0.001] * 9, [0.001] * 9, [0.1] * 9)
    found.cells[0].problems += busy
    assert found.untold
    assert found.verdict == RED
    found.problems.append("a row was lost")
    assert not found.untold


def test_a_drill_is_well_when_something_was_run_and_nothing_is_red() -> None:
    left_out = RowFinding.of(ROWS[1])
    left_out.not_run("no small disk")
    assert Findings([finding(), left_out], "now").ok
    assert not Findings([left_out], "now").ok
    assert not Findings([], "now").ok
    assert not Findings([finding(), finding(broken=True)], "now").ok
    assert not Findings([finding()], "now", error="interrupted").ok
    totals = Findings([finding(broken=True), left_out], "now").totals()
    assert totals == {GREEN: 5, RED: 1, NOT_RUN: 6}


def test_acts_are_counted_by_when_they_ended() -> None:
    acts = [Act("x", 0, 10.1, "ok"), Act("x", 0, 10.3, "refused"), Act("x", 0, 10.45, "ok"), Act("x", 0, 11, "ok")]
    assert bucketed(acts, 10.0, 10.5) == {"ok": [1, 1], "refused": [0, 1], "unknown": [0, 0], "failed": [0, 0]}


def test_refusals_must_be_quick() -> None:
    assert refusal_problems([0.1, 0.2, 1.5], 1.0) == []
    assert refusal_problems([0.1, 0.2, 2.5], 1.0) != []
    assert refusal_problems([1.1, 1.2, 0.1], 1.0) != []
    assert refusal_problems([], 1.0) == ["nothing was refused"]


def test_slowness_is_told_from_noise() -> None:
    assert slower_problems([0.010] * 20, [0.012] * 20, [0.010] * 20)[1] == []
    assert "1.26 times as slow" in slower_problems([0.010] * 20, [0.0126] * 20, [0.010] * 20)[1][0]
    # Times that drift by 40 % excuse as much.
    assert slower_problems([0.010] * 30, [0.0144] * 20, [0.010] * 20 + [0.014] * 10)[1] == []
    assert slower_problems([0.010] * 30, [0.0144] * 20, [0.010] * 30)[1] != []
    assert slower_problems([0.010], [0.010], [0.010])[1] == []
    assert "too busy to tell" in slower_problems([0.010] * 30, [0.010] * 20, [0.010] * 20 + [0.016] * 10)[1][0]


def test_fairness_asks_for_refusals_with_retry_info() -> None:
    quiet = [0.010] * 100
    assert unfair_problems(quiet, [0.019] * 100, 5, 5)[1] == []
    assert "2 is promised" in unfair_problems(quiet, [0.021] * 100, 5, 5)[1][0]
    assert "never refused" in unfair_problems(quiet, quiet, 0, 0)[1][0]
    assert "1 of 5" in unfair_problems(quiet, quiet, 5, 4)[1][0]


@pytest.mark.parametrize(
    ("disturbed", "tries", "told"),
    [("", 0, []), ("queue", 3, []), ("queue", None, ["queue"])],
    ids=["none", "soon", "never"],
)
async def test_a_tier_that_a_fault_only_needs_is_itself_again_before_cells_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, disturbed: str, tries: int | None, told: list[str]
) -> None:
    looks = [0]

    def recovery(scene: Scene, column: str) -> Callable[[], Awaitable[bool]]:
        async def works() -> bool:
            assert column == disturbed
            looks[0] += 1
            return looks[0] == tries

        return works

    monkeypatch.setattr(run, "recovery", recovery)
    monkeypatch.setattr(run, "RECOVERY_S", 0.5 if tries is None else 30.0)
    stand: Any = SimpleNamespace(tenants=(None,), penguin=None)
    play = run._Play(stand, Load(stand), ROWS[0], RowFinding.of(ROWS[0]))
    play._scene.disturbed = disturbed
    await play._undisturbed()
    assert [problem.split()[0] for problem in play._scene.problems] == told
    assert looks[0] == tries or tries is None


async def test_what_is_under_way_is_not_asked_for_again_before_it_is_answered() -> None:
    """It would be sent by the second call, and then be refused by the first."""
    asked, answer = [0], asyncio.Event()

    async def send_emails(tenant: UUID, emails: list[OutgoingEmail], **how: float) -> list[Any]:
        asked[0] += 1
        await answer.wait()
        raise TierError("content", grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN", "")

    stand: Any = SimpleNamespace(penguin=SimpleNamespace(send_emails=send_emails), tenants=())
    load, sample = Load(stand), Sample(TENANT, "us@sender.example", uuid4(), uuid4(), uuid4(), uuid4(), "key")
    first = asyncio.create_task(load.send(sample, [letter(sample, "a@example.com")]))
    await asyncio.sleep(0)
    settling = asyncio.create_task(load.settle_unknown(load.account.mails))
    await asyncio.sleep(0)
    answer.set()
    await settling
    assert (asked, [each.state for each in load.account.mails]) == ([1], ["refused"])
    assert isinstance(first.exception(), TierError)


def mail(state: str, recipient: str) -> Mail:
    email = OutgoingEmail(recipient=recipient, sender="us@sender.example", subject="Drill")
    return Mail(TENANT, email, uuid4() if state == "acknowledged" else None, state)


@pytest.mark.parametrize(
    ("state", "status", "arrived", "problem"),
    [
        ("acknowledged", "sent", 1, ""),
        ("acknowledged", "sent", 0, "lost"),
        ("acknowledged", None, 0, "lost"),
        ("acknowledged", "sent", 2, "twice"),
        ("acknowledged", "queued", 0, "on their way"),
        ("acknowledged", "outcome_unknown", 1, "held"),
        ("refused", None, 0, ""),
        ("refused", None, 1, "refused and arrived"),
        ("unknown", None, 0, "unknown outcome"),
    ],
)
def test_every_email_is_accounted_for(state: str, status: str | None, arrived: int, problem: str) -> None:
    one = mail(state, "a@example.com")
    statuses = {one.email_id: status} if one.email_id is not None and status is not None else {}
    found = judge_mails([one], statuses, {"a@example.com": arrived}, holds=False).problems
    assert bool(found) == bool(problem)
    assert all(problem in words for words in found)


def test_a_held_email_is_allowed_where_the_fault_explains_it() -> None:
    one = mail("acknowledged", "a@example.com")
    assert one.email_id is not None
    audit = judge_mails([one], {one.email_id: "outcome_unknown"}, {"a@example.com": 1}, holds=True)
    assert (audit.problems, audit.held, audit.figures["emails_held"]) == ([], ["a@example.com"], 1)


def test_the_load_mixes_its_acts_evenly() -> None:
    order = interleaved(MIX)
    assert {kind: order.count(kind) for kind in MIX} == MIX
    assert all(first != second for first, second in itertools.pairwise(order))


def test_the_report_shows_everything_and_fetches_nothing() -> None:
    good, left_out = finding(), RowFinding.of(ROWS[1])
    good.history = {"ok": [1, 5, 0], "refused": [0, 0, 2], "unknown": [0, 0, 0], "failed": [0, 0, 0]}
    good.fault_from_s, good.fault_to_s = 0.25, 0.5
    good.cells[0].said.append("8 <calls> refused")
    left_out.not_run("no small disk & no way to get one")
    shown = page(Findings([good, left_out, finding(broken=True)], "2026-11-21T10:00:00+00:00", 12.0))
    for words in (
        "8 &lt;calls&gt; refused", "no small disk &amp; no way", "works again after 0.5 s", "did not work again within 30 s",
        "<title>5 ok</title>", "11 held, 1 broken, 6 not run cells", *TITLES.values(), ROWS[0].title,
    ):  # fmt: skip
        assert words in shown, words
    for outside in ("http:", "https:", "src=", "<script", "@import", "url("):
        assert outside not in shown
    assert chart(left_out) == ""


def test_findings_are_json() -> None:
    read = json.loads(json.dumps(Findings([finding(broken=True)], "now").as_json()))
    assert read["ok"] is False
    assert read["rows"][0]["verdict"] == RED
    assert read["rows"][0]["cells"][0]["promised"] == PROMISES["refuses"]


def test_a_machine_without_namespaces_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(disks.INSIDE, raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert disks.enter(["drill"]) == "there is no unshare on this machine"
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(refusing))
    assert disks.enter(["drill"]) == "no size-limited tmpfs is allowed here: unshare: Operation not permitted"


def scene_of(key: str) -> Any:
    """A scene on which nothing stands: for judging what is handed in."""
    (row,) = chosen(key)
    return SimpleNamespace(row=row, stand=SimpleNamespace(penguin=None, tenants=(None,)))


async def answered() -> None:
    """A call that comes through."""


async def refused(code: grpc.StatusCode, reason: str) -> None:
    raise TierError("oltp", code, reason, "")


@pytest.mark.parametrize(
    ("key", "act", "problem"),
    [
        ("killed-oltp", lambda: refused(grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"), ""),
        ("stopped-oltp", lambda: refused(grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN"), ""),
        ("stopped-oltp", lambda: refused(grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"), "not UNAVAILABLE TIER_DB_DOWN"),
        ("frozen-oltp", lambda: refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE"), "DEADLINE_EXCEEDED"),
        ("killed-oltp", lambda: refused(grpc.StatusCode.INTERNAL, "INTERNAL"), "INTERNAL"),
        ("killed-oltp", answered, "answered though the tier is down"),
    ],
)
async def test_a_refusal_is_held_against_the_promise(
    key: str, act: Callable[[], Awaitable[None]], problem: str
) -> None:
    cell = Cell("oltp", "refuses")
    probe = Refuses(scene_of(key), cell)
    await probe._refused(act())
    assert len(cell.problems) == bool(problem)
    assert all(problem in each for each in cell.problems)


async def test_what_should_work_and_does_not_is_found() -> None:
    cell = Cell("oltp", "works")
    probe = Works(scene_of("redis-killed"), cell)
    await probe.timed(answered(), 1.0, "a read")
    assert cell.problems == []
    await probe.timed(refused(grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN"), 1.0, "a read")
    await probe.timed(answered(), -1.0, "a write")
    assert [problem.partition(":")[0].partition(" took")[0] for problem in cell.problems] == ["a read", "a write"]
