"""The campaign's state machine, every state against every transition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from penguin_chassis.faults import FailedPrecondition
from penguin_oltp.domain import campaigns
from penguin_oltp.domain.campaigns import Campaign

EARLIER, AT = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
DRAFT = Campaign(
    tenant_id=UUID(int=1), id=UUID(int=2), name="Spring", audience_list="spring", company_id=None, status="draft",
    launched_at=None, sealed_at=None, completed_at=None, version=1, created_at=EARLIER, updated_at=EARLIER,
)  # fmt: skip
RUNNING = replace(DRAFT, status="running", launched_at=EARLIER, version=2)
SEALED = replace(RUNNING, sealed_at=EARLIER, version=3)
STATES = {
    "draft": DRAFT,
    "running": RUNNING,
    "paused": replace(RUNNING, status="paused"),
    "completed": replace(SEALED, status="completed", completed_at=EARLIER),
    "cancelled": replace(RUNNING, status="cancelled"),
}
Transition = Callable[[Campaign, datetime], Campaign]
# Transition -> state -> the state after it; "" where it is refused.
TABLE: dict[Transition, dict[str, str]] = {
    campaigns.start: {"draft": "running", "running": "running", "paused": "running", "completed": "", "cancelled": ""},
    campaigns.pause: {"draft": "", "running": "paused", "paused": "paused", "completed": "", "cancelled": ""},
    campaigns.cancel: {"draft": "cancelled", "running": "cancelled", "paused": "cancelled", "completed": "",
                       "cancelled": "cancelled"},
    campaigns.seal: {"draft": "", "running": "running", "paused": "", "completed": "completed", "cancelled": ""},
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("transition", TABLE, ids=lambda t: t.__name__)
def test_every_state_against_every_transition(transition: Transition, state: str) -> None:
    before, expected = STATES[state], TABLE[transition][state]
    if not expected:
        with pytest.raises(FailedPrecondition) as refused:
            transition(before, AT)
        assert refused.value.metadata == {"resource": "campaign", "state": state}
        return
    after = transition(before, AT)
    assert after.status == expected
    if after is not before:
        assert (after.version, after.updated_at) == (before.version + 1, AT)
        assert transition(after, AT) is after


def test_a_campaign_is_launched_when_it_first_runs() -> None:
    started = campaigns.start(DRAFT, AT)
    assert started.launched_at == AT
    later = campaigns.start(campaigns.pause(started, AT), datetime(2026, 2, 1, tzinfo=UTC))
    assert later.launched_at == AT


def test_only_what_is_sealed_and_has_nothing_open_completes() -> None:
    for campaign, open_emails in [(RUNNING, 0), (SEALED, 1), (replace(SEALED, status="paused"), 0), (DRAFT, 0)]:
        with pytest.raises(FailedPrecondition) as refused:
            campaigns.complete(campaign, open_emails, AT)
        assert refused.value.metadata["open_emails"] == str(open_emails)
    completed = campaigns.complete(SEALED, 0, AT)
    assert (completed.status, completed.completed_at) == ("completed", AT)
    assert campaigns.complete(completed, 5, AT) is completed


def test_the_audience_is_fixed_once_it_has_its_emails() -> None:
    assert campaigns.update(RUNNING, {"audience_list": "other"}, AT).audience_list == "other"
    assert campaigns.update(SEALED, {"name": "Other", "audience_list": "spring"}, AT).name == "Other"
    for campaign in (SEALED, STATES["cancelled"]):
        with pytest.raises(FailedPrecondition):
            campaigns.update(campaign, {"audience_list": "other"}, AT)


def test_a_move_is_later_than_the_one_before_it_however_long_its_call_waited() -> None:
    running = campaigns.start(DRAFT, AT)
    paused = campaigns.pause(running, EARLIER)
    assert DRAFT.updated_at < running.updated_at < paused.updated_at < campaigns.start(paused, AT).updated_at
