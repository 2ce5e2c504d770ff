"""The checker finds what is wrong in an account where nothing else is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.chaos.checker import IN_HAND, NOTHING_OF, Message, Stored, Verdict, judge, judge_reconciled
from tests.chaos.load import Sender
from tests.chaos.recording import FAIL, INFO, OK, Operation

from penguin_worker.mime import Letter, build

# The same in each process: they stand in the names of cases.
TENANT, EMAIL, STRANGER = UUID(int=7), UUID(int=8), UUID(int=9)
WHO = f"{UUID(int=1).hex}@{TENANT.hex}.example.com"
OTHER = f"{UUID(int=2).hex}@{TENANT.hex}.example.com"
ROW = {"tenant_id": TENANT, "id": EMAIL, "recipient": WHO, "status": "sent", "attempt": 1, "content_storage_key": "k"}
CONTENT = {"tenant_id": TENANT, "storage_key": "k", "state": "claimed"}
CAME = Message(datetime(2026, 1, 1, tzinfo=UTC), (WHO,))
SOUND = Stored(
    emails=[ROW], contents=[CONTENT], jobs=Counter({(TENANT, EMAIL): 1}), doubts=Counter(), waiting={"jobs": 0},
    received={WHO: [CAME]},
)  # fmt: skip


def told(*words: str, email_id: UUID | None = EMAIL) -> Operation:
    return Operation(uuid4(), TENANT, WHO, 0.0, list(words), email_id)


def judged(stored: Stored, operation: Operation, policy: str = "hold", faults: int = 1) -> Verdict:
    return judge([operation], stored, [Sender(TENANT, policy)], faults)


@pytest.mark.parametrize(
    ("operation", "word"), [(told(OK), "ok"), (told(INFO, OK), "recovered"), (told(INFO), "unknown")]
)
def test_what_is_sound(operation: Operation, word: str) -> None:
    verdict = judged(SOUND, operation)
    assert verdict.holds
    assert verdict.counts[word] == 1


@pytest.mark.parametrize(
    ("changes", "operation", "word"),
    [
        ({"emails": [], "contents": []}, told(OK), "lost"),
        ({}, told(OK, email_id=uuid4()), "lost"),
        ({"emails": [ROW, {**ROW, "id": uuid4()}]}, told(OK), "duplicated"),
        ({}, told(FAIL), "unexpected"),
        ({"received": {WHO: [CAME, CAME]}}, told(OK), "came 2 times"),
        ({"received": {}}, told(OK), "never came"),
        ({"received": {WHO: [replace(CAME, written_to=(OTHER,))]}}, told(OK), f"written to {OTHER}, it came to"),
        ({"received": {WHO: [replace(CAME, written_to=(WHO, "nobody"))]}}, told(OK), "written to nobody"),
        *(
            ({"emails": [{**ROW, "status": status}], "received": {}}, told(OK), f"is {status} in the end")
            for status in ("queued", "sending", "failed", "suppressed", "cancelled", "outcome_unknown")
        ),
        ({"doubts": Counter({(TENANT, EMAIL): IN_HAND + 1})}, told(OK), "in doubt after 1 faults"),
        ({"contents": [CONTENT, {**CONTENT, "storage_key": "l", "state": "quarantined"}]}, told(OK), "nothing refers"),
        ({"emails": [{**ROW, "tenant_id": uuid4()}]}, told(OK), "another tenant"),
        ({"contents": []}, told(OK), "content is gone"),
        ({"contents": [CONTENT, {**CONTENT, "storage_key": "l"}]}, told(OK), "nothing refers to it"),
        ({"jobs": Counter({(TENANT, EMAIL): 2})}, told(OK), "2 jobs"),
        ({"waiting": {"outbox rows": 3}}, told(OK), "3 outbox rows wait"),
    ],
)
def test_what_is_wrong_is_found(changes: dict[str, Any], operation: Operation, word: str) -> None:
    verdict = judged(replace(SOUND, **changes), operation)
    assert any(word in each for each in verdict.wrong), verdict.wrong


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"emails": [{**ROW, "tenant_id": STRANGER}], "contents": [{**CONTENT, "tenant_id": STRANGER}]},
         f"an email of another tenant: {WHO} under {STRANGER}"),
        ({"contents": [{**CONTENT, "tenant_id": STRANGER}]}, f"1 contents of another tenant: {TENANT}'s under {STRANGER}"),
        ({"contents": [CONTENT, {**CONTENT, "tenant_id": STRANGER}]}, "1 contents of another tenant"),
        ({"contents": [{**CONTENT, "tenant_id": STRANGER}, CONTENT]}, "1 contents of another tenant"),
        ({"jobs": Counter({(STRANGER, EMAIL): 1})}, f"1 jobs of another tenant: {TENANT}'s under {STRANGER}"),
        ({"jobs": Counter({(TENANT, EMAIL): 1, (STRANGER, EMAIL): 2})}, "2 jobs of another tenant"),
        ({"doubts": Counter({(STRANGER, EMAIL): 1})}, f"1 attempts in doubt of another tenant: {TENANT}'s under {STRANGER}"),
    ],
)  # fmt: skip
def test_a_row_that_stands_under_another_tenant_is_foreign(changes: dict[str, Any], word: str) -> None:
    verdict = judged(replace(SOUND, **changes), told(OK))
    assert any(word in each for each in verdict.wrong), verdict.wrong
    assert verdict.counts["foreign"] == (2 if word.startswith("2") else 1)
    assert judged(SOUND, told(OK)).counts["foreign"] == 0


def test_what_another_tenant_did_is_none_of_an_emails() -> None:
    """Neither its jobs, nor its doubts, nor that a campaign of its was cancelled excuse anything."""
    campaign = uuid4()
    held = replace(SOUND, emails=[{**ROW, "status": "outcome_unknown"}], doubts=Counter({(STRANGER, EMAIL): 1}))
    assert any("is outcome_unknown in the end" in each for each in judged(held, told(OK)).wrong)
    row = {**ROW, "status": "cancelled", "campaign_id": campaign}
    taken_back = replace(SOUND, emails=[row], received={}, cancelled=frozenset({(STRANGER, campaign)}))
    assert any("is cancelled in the end" in each for each in judged(taken_back, told(OK)).wrong)
    jobless = replace(SOUND, jobs=Counter({(STRANGER, EMAIL): 1}))
    assert any("0 jobs for one email" in each for each in judged(jobless, told(OK)).wrong)


@pytest.mark.parametrize("kept", ["templates", "lists"])
def test_a_content_that_another_tenant_keeps_is_not_kept(kept: str) -> None:
    more = {**CONTENT, "storage_key": "more"}
    for tenant, holds in ((TENANT, True), (STRANGER, False)):
        changes: dict[str, Any] = {"contents": [CONTENT, more], kept: frozenset({(tenant, "more")})}
        assert judged(replace(SOUND, **changes), told(OK)).holds == holds


def test_an_email_in_doubt_is_held_where_its_tenant_chose_so() -> None:
    held = replace(
        SOUND, emails=[{**ROW, "status": "outcome_unknown"}], received={}, doubts=Counter({(TENANT, EMAIL): 1})
    )
    assert judged(held, told(OK), "hold").holds
    assert not judged(held, told(OK), "resend").holds


def test_what_was_taken_back_with_its_campaign_is_not_sent() -> None:
    campaign = uuid4()
    row = {**ROW, "status": "cancelled", "campaign_id": campaign}
    cancelled = replace(SOUND, emails=[row], received={}, cancelled=frozenset({(TENANT, campaign)}))
    assert judged(cancelled, told(OK)).holds
    assert not judged(replace(cancelled, cancelled=frozenset()), told(OK)).holds
    assert not judged(replace(cancelled, received={WHO: [CAME]}), told(OK)).holds, "and not sent all the same"


def test_templates_and_lists_are_nobodys_orphans() -> None:
    more = [{**CONTENT, "storage_key": "t"}, {**CONTENT, "storage_key": "l", "state": "unclaimed"}]
    stored = replace(
        SOUND, contents=[CONTENT, *more], templates=frozenset({(TENANT, "t")}), lists=frozenset({(TENANT, "l")})
    )
    assert judged(stored, told(OK)).holds
    assert not judged(replace(stored, contents=[CONTENT, more[1]]), told(OK)).holds, "a template's content is gone"


def test_what_a_tenant_chose_to_have_sent_again_is_listed() -> None:
    twice = replace(SOUND, received={WHO: [CAME, CAME]}, doubts=Counter({(TENANT, EMAIL): 1}))
    assert judged(twice, told(OK), "resend").resent
    assert judged(twice, told(OK), "resend").holds
    assert not judged(twice, told(OK), "hold").holds


def test_whom_a_message_is_written_to_is_read_of_each_of_its_texts() -> None:
    letter = Letter(
        "e", "t", "<m@sender.example>", "us@sender.example", WHO, WHO, text=f"Hello {WHO}", html="<p>Hello</p>"
    )
    at = CAME.at
    assert Message.of(at, build(letter, at)) == Message(at, (WHO, "nobody"))
    letter = replace(letter, html=f"<p>Hello {WHO}, not {OTHER}</p>")
    assert Message.of(at, build(letter, at)) == Message(at, (WHO, f"{WHO} and {OTHER}"))
    assert Message.of(at, b"Subject: none\r\n\r\nHello") == Message(at, ("nobody",))


@pytest.mark.parametrize("name", NOTHING_OF)
def test_what_reconcile_had_to_mend_is_found(name: str) -> None:
    verdict = Verdict()
    judge_reconciled({**dict.fromkeys(NOTHING_OF, 0), "quarantined": 3, "deleted": 3}, verdict)
    assert verdict.holds, "orphans are what faults leave behind"
    judge_reconciled({name: 1}, verdict)
    assert verdict.wrong == [f"reconcile: {name} is 1"]
