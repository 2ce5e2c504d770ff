"""The checker finds an act that was acknowledged and is not so, one that is half done, and one that was done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.chaos.acting import Played
from tests.chaos.acts_checker import Kept, Saga, judge_acts
from tests.chaos.checker import Verdict
from tests.chaos.recording import FAIL, INFO, OK, Act

from penguin_orchestrator.sagas.definition import ACTION, COMPENSATION

# The same in each process: they stand in the names of cases.
TENANT, EMAIL, SAGA, STRANGER = (UUID(int=n) for n in range(1, 5))
CAMPAIGN = str(UUID(int=5))
LIST, WHO, FILE, REPORT = "imported", f"ada@{TENANT.hex}.example.com", "file", "report"
ABOUT = (TENANT, CAMPAIGN)
AT = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def act(kind: str, begun: float, *words: str, seen: str = "", beside: bool = False) -> Act:
    """One that took a second, by what its caller was told."""
    about = LIST if kind == "import" else CAMPAIGN
    return Act(uuid4(), TENANT, kind, about, at(begun), at(begun + 1), list(words), "why", seen, beside)


def saga(kind: str, state: str = "succeeded", *steps: str, undone: Sequence[str] = ()) -> Saga:
    known = {
        "launch": ("plan", "start", "send", "seal"), "resume": ("plan", "start", "send", "seal"), "pause": ("pause",),
        "cancel": ("cancel", "take_back"),
    }  # fmt: skip
    done = {(step, ACTION): "done" for step in steps or known[kind]}
    done |= {(step, COMPENSATION): "done" for step in undone}
    return Saga(TENANT, SAGA, f"campaign.{kind}", 1, state, CAMPAIGN, done, {"campaign_id": CAMPAIGN}, {})


IMPORT = Saga(
    TENANT, SAGA, "leads.import", 1, "succeeded", "x", {(step, ACTION): "done" for step in ("check", "create", "report", "clear")},
    {"list": LIST, "key": FILE}, {"report": {"key": REPORT}},
)  # fmt: skip
LAUNCHED = (act("launch", 0, OK, seen="running"),)
ROW: dict[str, Any] = {
    "tenant_id": TENANT,
    "id": EMAIL,
    "campaign_id": UUID(CAMPAIGN),
    "recipient": WHO,
    "queued_at": at(0.5),
}
PLAYED = Played(campaigns={CAMPAIGN: frozenset({WHO})})
SOUND = Kept(
    campaigns={ABOUT: "completed"}, emails=[ROW], attempts={(TENANT, EMAIL): [at(0.7)]}, told=Counter({ABOUT: 1}), leads={},
    sagas=[saga("launch")], steps=Counter({(TENANT, SAGA): 4}), jobs=Counter({(TENANT, UUID(CAMPAIGN)): 1}), files=frozenset(),
)  # fmt: skip
IMPORTED = replace(
    SOUND, leads={(TENANT, LIST): Counter({WHO: 1})}, sagas=[IMPORT], files=frozenset({(TENANT, REPORT)})
)  # fmt: skip
CANCELLED = replace(
    SOUND, campaigns={ABOUT: "cancelled"}, told=Counter(), sagas=[saga("launch"), saga("cancel")]
)  # fmt: skip
PAUSED = replace(SOUND, sagas=[saga("launch"), saga("pause"), saga("resume")])


def judged(kept: Kept, *acts: Act, played: Played = PLAYED) -> Verdict:
    verdict = Verdict()
    judge_acts(acts, played, kept, verdict)
    return verdict


def paused(*, seen: str = "paused", beside: bool = False) -> tuple[Act, ...]:
    """Launched, paused from second 2 to 3, and resumed at 5."""
    pause = act("pause", 2, OK, seen=seen, beside=beside)
    return (*LAUNCHED, pause, act("resume", 5, OK, seen="running"))


def cancelled(*words: str, seen: str = "cancelled") -> tuple[Act, ...]:
    return (*LAUNCHED, act("cancel", 2, *(words or (OK,)), seen=seen))


@pytest.mark.parametrize(
    ("kept", "acts"),
    [
        (SOUND, LAUNCHED),
        (SOUND, (act("launch", 0, INFO, OK, seen="completed"),)),
        (SOUND, (act("launch", 0, INFO, FAIL, seen="completed"),)),
        (SOUND, (*LAUNCHED, act("pause", 2, FAIL, seen="completed"))),
        (SOUND, (act("launch", 0, OK, seen="paused", beside=True), act("pause", 0.1, FAIL, seen="running", beside=True))),
        (PAUSED, paused()),
        (CANCELLED, cancelled()),
        (CANCELLED, cancelled(INFO, FAIL)),
        (SOUND, cancelled(INFO, FAIL, seen="completed")),
    ],
)  # fmt: skip
def test_what_is_sound(kept: Kept, acts: Sequence[Act]) -> None:
    assert judged(kept, *acts).wrong == []


@pytest.mark.parametrize(
    ("kept", "acts", "word"),
    [
        # Acknowledged, and not so.
        (replace(SOUND, campaigns={ABOUT: "running"}, told=Counter()), LAUNCHED, "it is running in the end"),
        (replace(SOUND, campaigns={}, told=Counter()), LAUNCHED, "it is gone in the end"),
        (replace(SOUND, sagas=[]), LAUNCHED, "launch was acknowledged and no saga did it"),
        (SOUND, (act("launch", 0, OK, seen="draft"),), "launch was acknowledged, and it was draft"),
        (PAUSED, paused(seen="running"), "pause was acknowledged, and it was running"),
        (SOUND, cancelled(), "it is completed in the end, not cancelled"),
        (CANCELLED, cancelled(seen="running"), "cancel was acknowledged, and it was running"),
        # Refused without a reason.
        (SOUND, (act("launch", 0, FAIL, seen="draft"),), "launch was refused though it was draft"),
        (PAUSED, (*LAUNCHED, act("pause", 2, FAIL, seen="running")), "pause was refused though it was running"),
        # Half.
        (replace(SOUND, sagas=[saga("launch", "succeeded", "plan", "start", "send")]), LAUNCHED, "without seal"),
        (replace(SOUND, sagas=[saga("launch"), saga("launch", "compensated", "plan", "start")]), LAUNCHED, "half"),
        *(
            (replace(SOUND, sagas=[saga("launch"), saga("pause", state)]), LAUNCHED, f"is {state} in the end")
            for state in ("running", "compensating", "stuck", "abandoned")
        ),
        # Twice, missing, or to somebody else.
        (replace(SOUND, emails=[ROW, {**ROW, "id": uuid4()}]), LAUNCHED, "2 emails to"),
        (replace(SOUND, emails=[]), LAUNCHED, "1 recipients have no email"),
        (replace(SOUND, emails=[ROW, {**ROW, "recipient": "bob@example.com"}]), LAUNCHED, "not of its audience"),
        (replace(SOUND, told=Counter({ABOUT: 2})), LAUNCHED, "told 2 times"),
        (replace(SOUND, told=Counter()), LAUNCHED, "told 0 times"),
        (replace(CANCELLED, told=Counter({ABOUT: 1})), cancelled(), "told 1 times"),
        # After it was stopped.
        (replace(PAUSED, emails=[{**ROW, "queued_at": at(4)}]), paused(), "1 emails were written after its pause"),
        (replace(CANCELLED, emails=[{**ROW, "queued_at": at(4)}]), cancelled(), "1 emails were written after its cancel"),
        (replace(CANCELLED, attempts={(TENANT, EMAIL): [at(9)]}), cancelled(), "1 emails were tried after its cancel"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(kept: Kept, acts: Sequence[Act], word: str) -> None:
    wrong = judged(kept, *acts).wrong
    assert any(word in each for each in wrong), wrong


def test_what_is_written_once_it_is_resumed_is_none_of_the_pauses() -> None:
    assert judged(replace(PAUSED, emails=[{**ROW, "queued_at": at(5.5)}]), *paused()).wrong == []


def test_a_saga_that_was_undone_is_whole() -> None:
    undone = saga("launch", "compensated", "plan", "start", undone=["start"])
    assert judged(replace(SOUND, sagas=[saga("launch"), undone]), *LAUNCHED).wrong == []


IMPORTING = Played(lists={LIST: frozenset({WHO})})


def files(*names: str) -> frozenset[tuple[UUID, str]]:
    """Contents of the tenant."""
    return frozenset((TENANT, name) for name in names)


@pytest.mark.parametrize(
    ("kept", "words", "word"),
    [
        (IMPORTED, (OK,), ""),
        (replace(IMPORTED, files=files(REPORT, "upload")), (INFO, OK), ""),
        (replace(IMPORTED, leads={}), (OK,), "1 of 1 rows are missing"),
        (replace(IMPORTED, leads={(TENANT, LIST): Counter({WHO: 2})}), (OK,), "2 times"),
        (replace(IMPORTED, leads={(TENANT, LIST): Counter({WHO: 1, "nobody": 1})}), (OK,), "1 rows are not of its file"),
        (replace(IMPORTED, files=files(REPORT, FILE)), (OK,), "1 files of imports are left"),
        (replace(IMPORTED, files=files(REPORT, "upload")), (OK,), "1 uploads without an import"),
        (IMPORTED, (FAIL,), "its import is fail"),
        (IMPORTED, (), "its import is info"),
    ],
)  # fmt: skip
def test_each_row_of_a_file_stands_once_and_the_file_is_gone(kept: Kept, words: Sequence[str], word: str) -> None:
    wrong = judged(kept, act("import", 0, *words), played=IMPORTING).wrong
    assert bool(wrong) == bool(word), wrong
    assert any(word in each for each in wrong) or not word, wrong


FOREIGN = (STRANGER, CAMPAIGN)
STRAY = {**ROW, "tenant_id": STRANGER}


@pytest.mark.parametrize("beside", [False, True], ids=["instead", "beside"])
@pytest.mark.parametrize(
    ("own", "name", "strange", "word"),
    [
        (SOUND, "campaigns", {FOREIGN: "completed"}, "1 campaigns"),
        (SOUND, "emails", [STRAY], "1 emails of campaigns"),
        (SOUND, "attempts", {(STRANGER, EMAIL): [at(0.7)]}, "1 attempts"),
        (SOUND, "told", Counter({FOREIGN: 1}), "1 ends of campaigns told"),
        (SOUND, "jobs", Counter({(STRANGER, UUID(CAMPAIGN)): 1}), "1 jobs of campaigns"),
        (SOUND, "sagas", [replace(saga("launch"), tenant=STRANGER, id=uuid4())], "1 sagas"),
        (SOUND, "steps", Counter({(STRANGER, SAGA): 4}), "4 steps of sagas"),
        (IMPORTED, "leads", {(STRANGER, LIST): Counter({WHO: 1})}, "1 leads"),
        (IMPORTED, "leads", {(STRANGER, "another"): Counter({WHO: 1})}, "1 leads"),
        (IMPORTED, "sagas", [replace(IMPORT, tenant=STRANGER, id=uuid4(), input={"list": LIST, "key": "x"}, results={})], "1 sagas"),
        (IMPORTED, "files", frozenset({(STRANGER, REPORT)}), "1 files of imports"),
        (IMPORTED, "files", frozenset({(STRANGER, FILE)}), "1 files of imports"),
    ],
)  # fmt: skip
def test_a_row_that_stands_under_another_tenant_is_foreign(
    own: Kept, name: str, strange: Any, word: str, beside: bool
) -> None:
    """Whether the act's own tenant has it as well or not."""
    had = getattr(own, name)
    whole = (had + strange if isinstance(had, (Counter, list)) else had | strange) if beside else strange
    acts = LAUNCHED if own is SOUND else (act("import", 0, INFO, OK),)
    verdict = judged(replace(own, **{name: whole}), *acts, played=PLAYED if own is SOUND else IMPORTING)
    assert f"{word} of another tenant: {TENANT}'s under {STRANGER}" in verdict.wrong
    assert verdict.counts["foreign"] >= 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"campaigns": {FOREIGN: "completed"}}, "it is gone in the end"),
        ({"emails": [STRAY]}, "1 recipients have no email"),
        ({"told": Counter({FOREIGN: 1})}, "told 0 times"),
        ({"sagas": [replace(saga("launch"), tenant=STRANGER)]}, "launch was acknowledged and no saga did it"),
    ],
)
def test_what_another_tenant_has_does_not_stand_for_a_campaigns_own(changes: dict[str, Any], word: str) -> None:
    wrong = judged(replace(SOUND, **changes), *LAUNCHED).wrong
    assert any(word in each for each in wrong), wrong


def test_an_import_of_which_all_rows_stand_under_another_tenant_is_missing_and_foreign() -> None:
    everybody = Counter({f"{n}@{TENANT.hex}.example.com": 1 for n in range(5)})
    kept = replace(IMPORTED, leads={(STRANGER, LIST): everybody})
    verdict = judged(kept, act("import", 0, OK), played=Played(lists={LIST: frozenset(everybody)}))
    assert verdict.wrong == [
        f"list {LIST}: 5 of 5 rows are missing", f"5 leads of another tenant: {TENANT}'s under {STRANGER}",
    ]  # fmt: skip
    assert verdict.counts["foreign"] == 5


def test_what_has_no_answer_is_told() -> None:
    assert judged(SOUND, *LAUNCHED, played=replace(PLAYED, unanswered=["launch of x"])).wrong == [
        "no answer in time: launch of x"
    ]
