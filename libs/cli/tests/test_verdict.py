"""The one sentence that `why` ends with, for each way an email can stand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from rich.console import RenderableType

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin_cli.knowledge import Away, Known, NotAsked
from penguin_cli.verdict import verdict
from penguin_cli.why import drawn

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLAIMED = content_pb.ContentMetadata(state=content_pb.CONTENT_STATE_CLAIMED, raw_size=10, stored_size=5, codec="zstd")
UNCLAIMED = content_pb.ContentMetadata(state=content_pb.CONTENT_STATE_UNCLAIMED)
EMPTY = tier_pb.GetStatusResponse(outbox_depth=0)
OWING = tier_pb.GetStatusResponse(outbox_depth=3)
AWAY = Away("UNAVAILABLE TIER_DB_DOWN")


def email(status: str, **fields: Any) -> email_pb.Email:
    made = email_pb.Email(status=email_pb.EmailStatus.Value(f"EMAIL_STATUS_{status}"), attempt=1, **fields)
    made.queued_at.FromDatetime(NOW - timedelta(minutes=1))
    made.sent_at.FromDatetime(NOW)
    return made


def job(state: str, after: timedelta = timedelta(0), **fields: Any) -> queue_pb.Job:
    made = queue_pb.Job(state=queue_pb.JobState.Value(f"JOB_STATE_{state}"), **fields)
    made.run_at.FromDatetime(NOW + after)
    return made


def known(**changes: Any) -> Known:
    fields: dict[str, Any] = {
        "email": email("SENT"), "outbox": EMPTY, "content": CLAIMED, "job": job("COMPLETED"), "facts": None,
        "notified": None, "spooled": ["12:00:00.000 UTC"],
    }  # fmt: skip
    return Known(UUID(int=1), **(fields | changes))


LATER = email("QUEUED")
LATER.send_at.FromDatetime(NOW + timedelta(hours=1))
BOUNCED = email("SENT", tallies=[email_pb.EventTally(kind=email_pb.EMAIL_EVENT_KIND_BOUNCED, count=1)])
FAILED = email("FAILED", attempts=[email_pb.Attempt(attempt=1, smtp_code=550, enhanced_status="5.1.1")])


@pytest.mark.parametrize(
    ("facts", "words", "fine"),
    [
        (known(), "sent at 2026-03-01 12:00:00.000 UTC in attempt 1.", True),
        (known(email=BOUNCED), "bounced afterwards", False),
        (known(content=None), "content is missing now", False),
        (known(content=UNCLAIMED), "waits for its claim", False),
        (known(spooled=["a", "b"]), "received 2 times", False),
        (known(email=AWAY), "OLTP is away (UNAVAILABLE TIER_DB_DOWN)", False),
        (known(email=None), "no such email", False),
        (known(email=FAILED), "the last answered 550 5.1.1", False),
        (known(email=email("SENDING")), "being sent: attempt 1", True),
        (known(email=email("OUTCOME_UNKNOWN")), "held: outcome unknown", False),
        (known(email=email("SUPPRESSED")), "suppressed", False),
        (known(email=email("CANCELLED")), "cancelled at", False),
        (known(email=email("QUEUED"), content=None), "content missing", False),
        (known(email=email("QUEUED"), job=None, outbox=OWING), "waits in OLTP's outbox since 2026-03-01 11:59", True),
        (known(email=email("QUEUED"), job=None), "will not be sent by itself", False),
        (known(email=email("QUEUED"), job=AWAY), "Queue is away", False),
        (
            known(email=email("QUEUED"), job=job("DEAD", last_error="smtp.rejected")),
            "dead letter (smtp.rejected)",
            False,
        ),
        (known(email=email("QUEUED"), job=job("CANCELLED")), "its job was cancelled", False),
        (known(email=LATER, job=job("READY", timedelta(hours=1))), "waits for its time", True),
        (known(email=email("QUEUED"), content=AWAY, job=job("READY")), "Content is away", False),
        (known(email=email("QUEUED"), job=job("READY", timedelta(minutes=1))), "to be tried again at", True),
        (known(email=email("QUEUED"), job=job("READY")), "for a worker since", True),
        (known(email=email("QUEUED"), job=job("LEASED")), "a worker has its job", True),
    ],
)
def test_each_state_has_its_sentence(facts: Known, words: str, fine: bool) -> None:
    sentence, well = verdict(facts, NOW)
    assert words in sentence
    assert well is fine


@pytest.mark.parametrize(
    "facts",
    [
        known(),
        known(email=AWAY, outbox=AWAY, content=AWAY, job=AWAY, facts=AWAY, notified=AWAY, spooled=None),
        known(email=None, content=NotAsked(), job=None, spooled=[]),
    ],
)
def test_every_answer_is_drawn_and_who_is_away_says_so(facts: Known, text_of: Callable[[RenderableType], str]) -> None:
    text = text_of(drawn(facts))
    answers = (facts.email, facts.outbox, facts.content, facts.job, facts.facts, facts.notified)
    assert text.count("away: UNAVAILABLE TIER_DB_DOWN") == sum(isinstance(answer, Away) for answer in answers)
    assert text.rstrip().endswith(verdict(facts)[0])
