"""The email's state machine: the claim, the outcome, the settling of what nobody knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from penguin_chassis.faults import FailedPrecondition, InvalidArgument
from penguin_oltp.domain import emails as ledger
from penguin_oltp.domain.emails import Email, Outcome

AT = datetime(2026, 1, 2, tzinfo=UTC)
QUEUED = Email(
    id=UUID(int=2), tenant_id=UUID(int=1), recipient="ada@example.com", recipient_name="", sender="us@sender.example",
    sender_name="", subject="Hi", status="queued", priority="normal", content_storage_key="k", content_generation=1,
    campaign_id=None, step_id=None, lead_id=None, email_account_id=None, message_id="<m@sender.example>", attempt=0,
    version=1, send_at=None, queued_at=AT, sending_at=None, sent_at=None, finished_at=None,
)  # fmt: skip
SENDING = replace(QUEUED, status="sending", attempt=1, sending_at=AT, version=2)
UNKNOWN = replace(SENDING, status="outcome_unknown", version=3)


def outcome(word: str, attempt: int = 1, *, final: bool = False) -> Outcome:
    return Outcome(QUEUED.id, attempt, word, 250, "", AT, final)


@pytest.mark.parametrize(
    ("email", "how", "decision", "status"),
    [
        (QUEUED, {}, "send", "sending"),
        (QUEUED, {"suppressed": True}, "done", "suppressed"),
        (QUEUED, {"cancelled": True}, "done", "cancelled"),
        (SENDING, {"cancelled": True}, "held", "outcome_unknown"),
        (QUEUED, {"suppressed": True, "doubtful": True}, "held", "outcome_unknown"),
        (QUEUED, {"cancelled": True, "doubtful": True}, "held", "outcome_unknown"),
        (QUEUED, {"doubtful": True}, "send", "sending"),
        (replace(QUEUED, send_at=AT + timedelta(hours=1)), {}, "early", "queued"),
        (SENDING, {}, "held", "outcome_unknown"),
        (SENDING, {"policy": "resend"}, "send", "sending"),
        (SENDING, {"policy": "resend", "suppressed": True}, "held", "outcome_unknown"),
        (SENDING, {"policy": "resend", "cancelled": True}, "held", "outcome_unknown"),
        (UNKNOWN, {"policy": "resend"}, "held", "outcome_unknown"),
        (replace(SENDING, status="sent"), {}, "done", "sent"),
        (replace(SENDING, status="cancelled"), {}, "done", "cancelled"),
    ],
)
def test_a_claim_is_decided_by_what_the_email_is(email: Email, how: dict[str, Any], decision: str, status: str) -> None:
    known: dict[str, Any] = {"suppressed": False, "policy": "hold"} | how
    started = ledger.start(email, at=AT, **known)
    assert (started.decision, started.email.status) == (decision, status)
    assert started.email.attempt == email.attempt + (decision == "send")
    assert started.email.message_id == email.message_id


@pytest.mark.parametrize(
    ("email", "told", "status"),
    [
        (SENDING, outcome("sent"), "sent"),
        (SENDING, outcome("deferred"), "queued"),
        (SENDING, outcome("deferred", final=True), "failed"),
        (SENDING, outcome("rejected"), "failed"),
        (SENDING, outcome("unknown"), "outcome_unknown"),
        (UNKNOWN, outcome("sent"), "sent"),
        (replace(SENDING, attempt=2), outcome("sent"), "sent"),
        (replace(QUEUED, attempt=2), outcome("sent"), "sent"),
        (replace(UNKNOWN, attempt=2), outcome("sent"), "sent"),
        (replace(SENDING, attempt=2, status="cancelled"), outcome("sent"), "cancelled"),
        (replace(SENDING, attempt=2), outcome("rejected"), "sending"),
        (replace(SENDING, attempt=2), outcome("unknown"), "sending"),
        (replace(SENDING, attempt=2), outcome("deferred"), "sending"),
        (replace(SENDING, status="sent"), outcome("rejected"), "sent"),
    ],
)
def test_an_outcome_concludes_its_own_attempt(email: Email, told: Outcome, status: str) -> None:
    assert ledger.conclude(email, told).status == status


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (outcome("rejected", 2), "outcome_unknown"),
        (outcome("deferred", 2, final=True), "outcome_unknown"),
        (outcome("deferred", 2), "queued"),
        (outcome("sent", 2), "sent"),
    ],
)
def test_what_an_attempt_before_may_have_delivered_is_not_said_to_have_failed(told: Outcome, status: str) -> None:
    assert ledger.conclude(replace(SENDING, attempt=2), told, doubtful=True).status == status


def test_an_attempt_that_never_began_has_no_outcome() -> None:
    with pytest.raises(FailedPrecondition) as refused:
        ledger.conclude(SENDING, outcome("sent", 2))
    assert refused.value.reason == "ATTEMPT_CONFLICT"


def test_only_what_nobody_knows_is_settled() -> None:
    assert ledger.settle(UNKNOWN, "sent", AT).status == "sent"
    assert ledger.settle(UNKNOWN, "failed", AT).status == "failed"
    assert ledger.settle(UNKNOWN, "resend", AT).status == "queued"
    with pytest.raises(FailedPrecondition) as refused:
        ledger.settle(SENDING, "sent", AT)
    assert refused.value.metadata == {"resource": "email", "state": "sending"}


def test_marks_follow_the_transition_and_are_taken_back_with_it() -> None:
    sent = ledger.conclude(SENDING, outcome("sent"))
    assert ledger.marks(SENDING, sent) == ({"sent": AT}, frozenset())
    assert ledger.marks(SENDING, UNKNOWN) == ({"outcome_unknown": AT}, frozenset())
    assert ledger.marks(UNKNOWN, ledger.settle(UNKNOWN, "sent", AT)) == ({"sent": AT}, frozenset({"outcome_unknown"}))
    assert ledger.marks(SENDING, SENDING) == ({}, frozenset())


def test_contents_are_claimable_until_their_time() -> None:
    ledger.claimable(AT, AT - timedelta(seconds=1))
    with pytest.raises(FailedPrecondition) as refused:
        ledger.claimable(AT, AT)
    assert refused.value.reason == "CONTENT_CLAIM_EXPIRED"


def test_emails_are_sent_before_the_calendar_ends() -> None:
    ledger.sendable(None)
    ledger.sendable(ledger.LATEST - timedelta(microseconds=1))
    with pytest.raises(InvalidArgument) as refused:
        ledger.sendable(ledger.LATEST)
    assert refused.value.field == "send_at"
