"""The demo's own judgement: a fault in what the tiers did must show as a failed check."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin_cli import contract
from penguin_cli.demo import checks, data, events, isolation, received
from penguin_cli.demo.summary import Summary
from penguin_devstack.spool import SpoolWriter
from penguin_orchestrator import leadfiles
from penguin_orchestrator.leadfiles import LeadReader

SINCE = datetime(2026, 3, 1, tzinfo=UTC)
SENDER = "nora@a.example"


def ledger(count: int) -> list[email_pb.Email]:
    emails = [
        email_pb.Email(
            id=str(UUID(int=n)), recipient=f"r{n}@b.example", message_id=f"<{n}@a.example>", content_storage_key=f"k{n}"
        )
        for n in range(count)
    ]
    for email in emails:
        email.sent_at.FromDatetime(SINCE)
    return emails


def raw(email: email_pb.Email, text: str = "Hello {}", attachment: str = "aGk=") -> bytes:
    body = text.format(email.recipient)
    return (
        f"Message-ID: {email.message_id}\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n"
        f"--B\r\nContent-Type: multipart/alternative; boundary=C\r\n\r\n"
        f"--C\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n"
        f"--C\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>{body}\r\n--C--\r\n\r\n"
        f'--B\r\nContent-Type: text/x-note\r\nContent-Disposition: attachment; filename="n.txt"\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{attachment}\r\n--B--\r\n"
    ).encode()


def stored(emails: list[email_pb.Email]) -> dict[str, content_pb.Content]:
    attachment = content_pb.Attachment(filename="n.txt", mime_type="text/x-note", data=b"hi")
    return {
        email.content_storage_key: content_pb.Content(
            text=f"Hello {email.recipient}", html=f"<p>Hello {email.recipient}", attachments=[attachment]
        )
        for email in emails
    }


@pytest.fixture
def spool(tmp_path: Path) -> Any:
    writer = SpoolWriter(tmp_path)

    def append(email: email_pb.Email, content: bytes | None = None, to: str = "", after_s: float = 1) -> None:
        at = SINCE + timedelta(seconds=after_s)
        writer.append(SENDER, [to or email.recipient], content or raw(email), at)

    append.store = tmp_path  # type: ignore[attr-defined]
    yield append
    writer.close()


def problems(emails: list[email_pb.Email], store: Path) -> list[int]:
    arrived = received.received_from(store, SENDER, SINCE)
    return [
        len(received.delivery_problems(emails, arrived)),
        len(received.stray_problems(emails, arrived)),
        len(received.part_problems(emails, arrived, stored(emails))),
        len(received.personal_problems(emails, arrived)),
    ]


def test_whole_and_single_deliveries_are_found_without_fault(spool: Any) -> None:
    emails = ledger(3)
    spool(emails[0], after_s=-1)  # of an earlier run
    for email in emails:
        spool(email)
    assert problems(emails, spool.store) == [0, 0, 0, 0]


def test_lost_doubled_misdirected_stray_and_altered_messages_are_found(spool: Any) -> None:
    lost, doubled, misdirected, altered, cut, right = emails = ledger(6)
    del lost
    spool(doubled)
    spool(doubled)
    spool(misdirected, to="someone@else.example")
    spool(altered, raw(altered, text="Dear {}"))
    spool(cut, raw(cut, attachment="aA=="))
    spool(right)
    spool(email_pb.Email(message_id="<stray@a.example>", recipient="x@b.example"))
    assert problems(emails, spool.store) == [3, 1, 3, 0]


def test_messages_that_are_all_alike_are_not_personal(spool: Any) -> None:
    emails = ledger(3)
    for email in emails:
        spool(email, raw(email, text="Hello you"))
    assert problems(emails, spool.store)[3] == 4


def test_the_same_seed_simulates_the_same_events_and_repeats_are_counted() -> None:
    emails = ledger(300)
    once, again = events.simulate(emails, 7), events.simulate(list(reversed(emails)), 7)
    other = events.simulate(emails, 8)
    assert once.events == again.events != other.events
    identities = [(event.email_id, event.kind, event.provider_event_id) for event in once.events]
    assert len(identities) - len(set(identities)) == once.repeats > 0
    distinct: Counter[str] = Counter()
    for _, kind in {(email, kind) for email, kind, _ in identities}:
        distinct[events.measure_of(kind)] += 1
    assert distinct == once.emails
    assert set(once.emails) == set(events.MEASURES)
    assert once.emails["delivered"] + once.emails["bounced"] == 300
    ends = SINCE + timedelta(seconds=1)
    assert all(SINCE < event.occurred_at.ToDatetime(UTC) < ends for event in once.events)


@pytest.mark.parametrize("count", [1, 2])
def test_even_one_recipient_answers(count: int) -> None:
    few = events.simulate(ledger(count), 1)
    assert [email.recipient for email in few.replied] == ["r0@b.example"]
    assert (few.emails["unsubscribed"], few.emails["bounced"]) == (1, count - 1)


def test_counts_that_differ_are_named() -> None:
    facts, counted = Counter(sent=10, opened=4), Counter(sent=10, opened=5)
    assert checks.counted_like_ledger(facts, counted) == ["opened: OLAP 4, ledger 5"]
    assert checks.counted_like_simulation(facts, Counter(opened=4)) == []


def test_every_reading_method_of_every_tier_is_tried() -> None:
    tried = {method.path for method in isolation.reading_methods()}
    for tier in contract.TIERS:
        reads = {m.path for m in contract.methods(tier) if m.reads and not m.platform and m.name != "GetStatus"}
        assert reads <= tried
    assert len(tried) > 40


def test_a_foreign_reply_gives_itself_away() -> None:
    owner, marks = str(UUID(int=5)), {str(UUID(int=5)), "key-1"}
    stranger = email_pb.Email(id=str(UUID(int=9)), content_storage_key="key-2")
    leaked = email_pb.ListEmailsResponse(emails=[email_pb.Email(tenant_id=owner)])
    assert isolation.shown_of(leaked, marks, narrow=False) == [f"shows {owner} of the other tenant"]
    assert isolation.shown_of(email_pb.ListEmailsResponse(emails=[stranger]), marks, narrow=False) == []
    assert len(isolation.shown_of(email_pb.ListEmailsResponse(emails=[stranger]), marks, narrow=True)) == 1
    echoed = email_pb.BatchGetEmailsResponse(missing_ids=[owner])
    assert isolation.shown_of(echoed, marks, narrow=True) == []


def test_requests_name_all_that_the_other_tenant_has() -> None:
    method = contract.find("content", "penguin.content.v1.ContentService/BatchGetContents")
    report = contract.find("olap", "/penguin.olap.v1.ReportService/GetCampaignReport")
    assert method is not None
    assert report is not None
    belongings = isolation.Belongings(UUID(int=1), {"storage_keys": "key-1", "campaign_id": str(UUID(int=2))})
    assert list(isolation.filled(method, belongings).storage_keys) == ["key-1"]
    request = isolation.filled(report, belongings)
    assert (request.tenant_id, request.campaign_id) == (str(UUID(int=1)), str(UUID(int=2)))
    assert request.span.first_day


def test_a_summary_is_good_only_when_checks_were_made_and_all_held(tmp_path: Path) -> None:
    summary = Summary()
    assert not summary.ok
    summary.check("first", [])
    assert summary.ok
    with summary.phase("slow"):
        summary.check("second", [f"wrong {n}" for n in range(30)])
    assert not summary.ok
    path = tmp_path / "demo" / "summary.json"
    summary.write(path)
    written = json.loads(path.read_text())
    assert (written["ok"], written["checks"]) == (False, {"first": True, "second": False})
    assert written["problems"]["second"][-1] == "… and 20 more"
    assert "slow" in written["phases_s"]
    summary.check("second", [])
    summary.error = "interrupted"
    assert not summary.ok


def test_the_shipped_leads_are_a_thousand_invented_people() -> None:
    shipped = data.leads(1000)
    reader = LeadReader(leadfiles.survey(shipped, {}, "demo"), {}, "demo", uuid4())
    rows = reader.feed(shipped, last=True)
    assert [row.problem for row in rows if row.lead is None] == []
    addresses = [row.lead.email for row in rows if row.lead]
    assert len(set(addresses)) == len(addresses) == 1000
    assert {address.rpartition(".")[2] for address in addresses} == {"example"}
    assert any(not row.lead.first_name.isascii() for row in rows if row.lead)
    heading, *last = shipped.splitlines(keepends=True)
    assert data.leads(5, last=True).splitlines(keepends=True) == [heading, *last[-5:]]
    assert data.template().attachment.data.startswith(b"%PDF-")
