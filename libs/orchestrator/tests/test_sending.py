"""The main job: what is durable when it returns, what is undone when it fails, and what is left alone when nobody knows."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from libs.orchestrator.tests.conftest import Make
from libs.orchestrator.tests.stored import contents, emails, outgoing, owed, until

from penguin_chassis.pool import Database
from penguin_orchestrator import batches
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import (
    Attachment,
    OutcomeUnknownError,
    OutgoingEmail,
    Refusal,
    Sent,
    StoredAttachment,
)
from penguin_orchestrator.reading import Reader
from penguin_orchestrator.sending import Sender
from penguin_testkit.faults import Break, Code, Faults

CREATE, PUT, DELETE = "BatchCreateEmails", "BatchPutContents", "DeleteContents"
# How long the pivot is asked for in these tests (seconds).
SOON = 0.6


@pytest.fixture
def sender(tiers: dict[str, Tier]) -> Sender:
    return Sender(tiers["content"], tiers["oltp"])


def bytes_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def test_a_sent_email_stands_with_its_body_and_owes_claim_and_job(
    sender: Sender, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    file = bytes_of(5000)
    email = outgoing(
        headers={"X-Note": "ü"}, attachments=(Attachment("a.bin", "application/octet-stream", file, "cid1"),)
    )
    (sent,) = await sender.send_emails(tenant, [email])
    assert isinstance(sent, Sent)
    assert await emails(oltp_db, tenant) == {sent.email_id: sent.storage_key}
    assert await contents(content_db, tenant) == {sent.storage_key: "unclaimed"}
    assert [destination for destination, _, _ in await owed(oltp_db, tenant)] == ["content", "queue"]
    read = await Reader(tiers["content"], tiers["oltp"]).get_email(tenant, sent.email_id, full=True)
    assert read.body.content is not None
    assert (read.email.subject, read.email.message_id) == ("Hello", sent.message_id)
    assert (read.body.content.text, read.body.content.html) == (email.text, email.html)
    assert [(h.name, h.value) for h in read.body.content.headers] == [("X-Note", "ü")]
    (attachment,) = read.body.content.attachments
    assert (attachment.data, attachment.filename, attachment.content_id) == (file, "a.bin", "cid1")


async def test_nothing_to_send_is_nothing_done(sender: Sender, tenant: UUID, faults: dict[str, Faults]) -> None:
    assert await sender.send_emails(tenant, []) == []
    assert not faults["content"].requests


async def test_answers_come_in_the_order_of_the_emails(sender: Sender, tenant: UUID, oltp_db: Database) -> None:
    sent = await sender.send_emails(tenant, [outgoing(subject=str(n)) for n in range(20)])
    async with oltp_db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT id, subject FROM emails WHERE tenant_id = $1", tenant)
    subjects = {row["id"]: row["subject"] for row in rows}
    assert [subjects[each.email_id] for each in sent if isinstance(each, Sent)] == [str(n) for n in range(20)]


async def test_what_content_refuses_never_reaches_the_ledger(
    sender: Sender, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    unknown = StoredAttachment("a.pdf", "application/pdf", hashlib.sha256(b"never stored").hexdigest())
    first, refused, last = await sender.send_emails(tenant, [outgoing(), outgoing(attachments=(unknown,)), outgoing()])
    assert isinstance(refused, Refusal)
    assert refused.reason == "BLOB_MISSING"
    assert isinstance(first, Sent)
    assert isinstance(last, Sent)
    assert set(await contents(content_db, tenant)) == {first.storage_key, last.storage_key}
    assert len(await emails(oltp_db, tenant)) == 2


async def test_what_oltp_refuses_leaves_no_content(
    sender: Sender, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    refused, sent = await sender.send_emails(tenant, [outgoing(campaign_id=uuid4(), lead_id=uuid4()), outgoing()])
    assert isinstance(refused, Refusal)
    assert refused.reason == "REFERENCE_MISSING"
    assert isinstance(sent, Sent)
    assert set(await contents(content_db, tenant)) == {sent.storage_key}
    assert set(await emails(oltp_db, tenant)) == {sent.email_id}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"recipient": "no address"}, "recipient"),
        ({"subject": "x" * 999}, "subject"),
        ({"subject": "a\0b"}, "subject"),
        ({"headers": {"": "nameless"}}, "composed.headers[0].name"),
        ({"attachments": (Attachment("f" * 300, "text/plain", b"x"),)}, "attachments[0].filename"),
        ({"send_at": datetime(9000, 1, 1, tzinfo=UTC)}, "send_at"),
        ({"send_at": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))}, ""),
    ],
)
async def test_one_bad_email_sinks_no_other(
    sender: Sender, tenant: UUID, oltp_db: Database, content_db: Database, bad: dict[str, Any], field: str
) -> None:
    first, refused, last = await sender.send_emails(tenant, [outgoing(), outgoing(**bad), outgoing()])
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.reason, refused.field) == (3, "INVALID_FIELD", field)
    assert isinstance(first, Sent)
    assert isinstance(last, Sent)
    assert await emails(oltp_db, tenant) == {e.email_id: e.storage_key for e in (first, last)}
    assert set(await contents(content_db, tenant)) == {first.storage_key, last.storage_key}


async def test_values_of_a_wrong_kind_are_refused_one_by_one(sender: Sender, tenant: UUID) -> None:
    results = await sender.send_emails(
        tenant, [outgoing(priority="urgent"), outgoing(text="lone \ud800 surrogate"), outgoing()]
    )
    assert [type(each) for each in results] == [Refusal, Refusal, Sent]


async def test_an_email_too_large_for_any_tier_is_refused_alone(sender: Sender, tenant: UUID) -> None:
    results = await sender.send_emails(tenant, [outgoing(html="x" * (batches.BATCH_BYTES + 1)), outgoing()])
    assert isinstance(results[0], Refusal)
    assert results[0].reason == "TOO_LARGE"
    assert isinstance(results[1], Sent)


async def test_with_content_away_nothing_is_done(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], oltp_db: Database
) -> None:
    faults["content"].breaks(PUT, *[Break(Code.UNAVAILABLE, "TIER_DB_DOWN")] * 50)
    with pytest.raises(TierError) as caught:
        await sender.send_emails(tenant, [outgoing()], put_deadline_s=0.3)
    assert (caught.value.tier, caught.value.reason) == ("content", "TIER_DB_DOWN")
    assert await emails(oltp_db, tenant) == {}
    assert not faults["oltp"].requests


async def test_content_that_stored_and_gave_no_answer_is_asked_again(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    faults["content"].breaks(PUT, Break(Code.UNAVAILABLE, acted=True))
    (sent,) = await sender.send_emails(tenant, [outgoing()])
    assert isinstance(sent, Sent)
    assert set(await contents(content_db, tenant)) == {sent.storage_key}
    first, second = faults["content"].requests[PUT]
    assert first == second


@pytest.mark.parametrize(
    "broken",
    [
        Break(Code.PERMISSION_DENIED, "SCOPE_MISSING"),
        Break(Code.FAILED_PRECONDITION, "CONTENT_CLAIM_EXPIRED"),
        Break(Code.NOT_FOUND, "NOT_FOUND"),
        Break(Code.INVALID_ARGUMENT, "INVALID_FIELD"),
    ],
)
async def test_what_the_pivot_refuses_for_good_is_undone(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], oltp_db: Database, content_db: Database, broken: Break
) -> None:
    faults["oltp"].breaks(CREATE, broken)
    with pytest.raises(TierError) as caught:
        await sender.send_emails(tenant, [outgoing(), outgoing()])
    assert caught.value.reason == broken.reason
    assert await contents(content_db, tenant) == {}
    assert await emails(oltp_db, tenant) == {}


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN, None])
async def test_an_unknown_outcome_undoes_nothing(
    sender: Sender,
    tenant: UUID,
    faults: dict[str, Faults],
    oltp_db: Database,
    content_db: Database,
    code: grpc.StatusCode | None,
    acted: bool,
) -> None:
    faults["oltp"].breaks(CREATE, *[Break(code, acted=acted)] * 20)
    email = outgoing(request_id=uuid4())
    with pytest.raises(OutcomeUnknownError) as caught:
        await sender.send_emails(tenant, [email], deadline_s=SOON)
    assert caught.value.request_ids == (email.request_id,)
    assert len(await contents(content_db, tenant)) == 1
    assert not faults["content"].requests[DELETE]
    # Asking again settles it: one email, one content, whichever try it was.
    faults["oltp"].heal()
    (sent,) = await sender.send_emails(tenant, [email])
    assert isinstance(sent, Sent)
    assert await emails(oltp_db, tenant) == {sent.email_id: sent.storage_key}
    assert sent.storage_key in await contents(content_db, tenant)


@pytest.mark.parametrize(
    "later",
    [
        Break(Code.PERMISSION_DENIED, "SCOPE_MISSING"),
        Break(Code.UNAUTHENTICATED, "TOKEN_EXPIRED"),
        Break(Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA"),
        Break(Code.UNAVAILABLE, "DRAINING"),
        Break(Code.UNAVAILABLE, "NO_TOKEN"),
    ],
)
async def test_a_refusal_after_a_try_without_answer_proves_nothing(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], oltp_db: Database, content_db: Database, later: Break
) -> None:
    """The first try was carried out and its answer lost: undoing would leave an email without its body."""
    faults["oltp"].breaks(CREATE, Break(Code.DEADLINE_EXCEEDED, acted=True), *[later] * 20)
    with pytest.raises(OutcomeUnknownError):
        await sender.send_emails(tenant, [outgoing()], deadline_s=SOON)
    (key,) = (await emails(oltp_db, tenant)).values()
    assert set(await contents(content_db, tenant)) == {key}


async def test_a_try_that_never_left_is_undone(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    faults["oltp"].breaks(CREATE, *[Break(Code.UNAVAILABLE, "NO_TOKEN")] * 20)
    with pytest.raises(TierError) as caught:
        await sender.send_emails(tenant, [outgoing()], deadline_s=SOON)
    assert caught.value.reason == "NO_TOKEN"
    assert await contents(content_db, tenant) == {}


async def test_a_cancelled_send_undoes_nothing_that_may_stand(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], oltp_db: Database, content_db: Database
) -> None:
    faults["oltp"].breaks(CREATE, Break(None, acted=True))
    send = asyncio.create_task(sender.send_emails(tenant, [outgoing()]))
    await until(lambda: emails(oltp_db, tenant))
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send
    (key,) = (await emails(oltp_db, tenant)).values()
    assert set(await contents(content_db, tenant)) == {key}


async def test_a_send_cancelled_before_the_pivot_leaves_no_content(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    faults["content"].breaks(PUT, Break(None, acted=True))
    send = asyncio.create_task(sender.send_emails(tenant, [outgoing()]))
    await until(lambda: contents(content_db, tenant))
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send
    assert await contents(content_db, tenant) == {}


async def test_a_repeat_is_answered_with_the_first_key_and_loses_its_own(
    sender: Sender, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    email = outgoing(request_id=uuid4())
    (first,) = await sender.send_emails(tenant, [email])
    second, other = await sender.send_emails(tenant, [email, outgoing()])
    assert second == first
    assert isinstance(other, Sent)
    assert isinstance(first, Sent)
    assert set(await contents(content_db, tenant)) == {first.storage_key, other.storage_key}
    assert len(await emails(oltp_db, tenant)) == 2


async def test_another_email_under_the_same_request_id_is_refused(
    sender: Sender, tenant: UUID, content_db: Database
) -> None:
    request_id = uuid4()
    (first,) = await sender.send_emails(tenant, [outgoing(request_id=request_id)])
    (refused,) = await sender.send_emails(tenant, [outgoing(request_id=request_id)])
    assert isinstance(refused, Refusal)
    assert refused.reason == "REQUEST_ID_REUSED"
    assert isinstance(first, Sent)
    assert set(await contents(content_db, tenant)) == {first.storage_key}


async def test_another_body_under_the_same_request_id_is_refused(
    sender: Sender, tenant: UUID, content_db: Database
) -> None:
    request_id, file = uuid4(), Attachment("a.txt", "text/plain", b"one")
    email = outgoing(request_id=request_id, subject="s", recipient="a@b.example", text="t", attachments=(file,))
    (first,) = await sender.send_emails(tenant, [email])
    assert isinstance(first, Sent)
    for changed in (
        {"text": "other"}, {"html": "<p>other</p>"}, {"headers": {"X-A": "1"}},
        {"attachments": (replace(file, data=b"two"),)}, {"attachments": ()},
    ):  # fmt: skip
        (refused,) = await sender.send_emails(tenant, [replace(email, **changed)])
        assert isinstance(refused, Refusal), changed
        assert refused.reason == "REQUEST_ID_REUSED"
    assert set(await contents(content_db, tenant)) == {first.storage_key}


async def test_a_ledger_that_cannot_be_reached_costs_a_moment_and_leaves_nothing(
    tiers: dict[str, Tier], make: Make, tenant: UUID, content_db: Database
) -> None:
    """Nobody listens there: the call never left, so the bodies are taken back."""
    sender = Sender(tiers["content"], make("oltp", 9, Faults()))
    with pytest.raises(TierError) as caught:
        await sender.send_emails(tenant, [outgoing(), outgoing()], put_deadline_s=SOON)
    assert (caught.value.reason, caught.value.outcome_unknown) == ("UNREACHABLE", False)
    assert await contents(content_db, tenant) == {}


async def test_a_try_that_may_have_acted_is_not_forgotten_for_one_that_never_left(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    known = Break(Code.UNAVAILABLE, "NO_TOKEN")
    faults["oltp"].breaks(CREATE, Break(Code.UNAVAILABLE, acted=True), *[known] * 20)
    with pytest.raises(OutcomeUnknownError):
        await sender.send_emails(tenant, [outgoing()], deadline_s=SOON)
    assert len(await contents(content_db, tenant)) == 1


async def test_a_claimed_content_is_never_undone(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database
) -> None:
    """The relay was faster than a compensation that came by mistake."""
    (sent,) = await sender.send_emails(tenant, [outgoing()])
    assert isinstance(sent, Sent)
    async with content_db.tenant(tenant) as connection:
        await connection.execute("UPDATE content_objects SET state = 'claimed' WHERE tenant_id = $1", tenant)
    await sender._undo(tenant, [sent.storage_key])
    assert await contents(content_db, tenant) == {sent.storage_key: "claimed"}


async def test_compensation_that_finds_content_away_is_left_to_quarantine(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], content_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penguin_orchestrator.sending.COMPENSATE_S", 0.3)
    faults["oltp"].breaks(CREATE, Break(Code.PERMISSION_DENIED, "SCOPE_MISSING"))
    faults["content"].breaks(DELETE, *[Break(Code.UNAVAILABLE)] * 20)
    with pytest.raises(TierError) as caught:
        await sender.send_emails(tenant, [outgoing()])
    assert caught.value.reason == "SCOPE_MISSING"
    assert list((await contents(content_db, tenant)).values()) == ["unclaimed"]


async def test_a_call_that_stopped_half_way_is_completed_by_the_same_call(
    sender: Sender, tenant: UUID, faults: dict[str, Faults], oltp_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_ITEMS", 3)
    many = [outgoing() for _ in range(8)]
    # The first batch stands when the second one is refused.
    passed = asyncio.Event()
    original = sender._send_batch

    async def second_fails(*arguments: Any) -> Any:
        if passed.is_set():
            raise TierError("content", Code.UNAVAILABLE, "TIER_DB_DOWN", "away")
        passed.set()
        return await original(*arguments)

    monkeypatch.setattr(sender, "_send_batch", second_fails)
    with pytest.raises(OutcomeUnknownError) as caught:
        await sender.send_emails(tenant, many)
    monkeypatch.setattr(sender, "_send_batch", original)
    assert len(caught.value.request_ids) == 8
    assert len(await emails(oltp_db, tenant)) == 3
    again = [_with_id(email, request_id) for email, request_id in zip(many, caught.value.request_ids, strict=True)]
    assert all(isinstance(each, Sent) for each in await sender.send_emails(tenant, again))
    assert len(await emails(oltp_db, tenant)) == 8


def _with_id(email: OutgoingEmail, request_id: UUID) -> OutgoingEmail:
    return outgoing(recipient=email.recipient, request_id=request_id)
