"""LedgerService: what the analytics tier reads of the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from services.oltp.tests.rows import create_request, new_email, refuse_others, send, set_scene, tell, write_emails

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import ledger_service_pb2 as pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.ledger_service_pb2_grpc import LedgerServiceStub
from penguin_chassis.pool import Database
from penguin_oltp.domain.ledger import Cursor
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(oltp: TierClient) -> LedgerServiceStub:
    return LedgerServiceStub(oltp.channel)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


async def changed(
    oltp: TierClient, stub: LedgerServiceStub, tenant: UUID, cursor: str = ""
) -> pb.ListChangedDaysResponse:
    """What changed since the cursor."""
    request = pb.ListChangedDaysRequest(tenant_id=str(tenant), cursor=cursor)
    reply: pb.ListChangedDaysResponse = await oltp.call(stub.ListChangedDays, request)
    return reply


async def count(oltp: TierClient, stub: LedgerServiceStub, tenant: UUID, day: str = "") -> list[pb.LedgerCell]:
    """A day's cells."""
    request = pb.CountDayRequest(tenant_id=str(tenant), day=day or today())
    return list((await oltp.call(stub.CountDay, request)).cells)


async def test_a_day_is_counted_in_whole_cells(oltp: TierClient, stub: LedgerServiceStub, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant, leads=4)
    sent, bounced, failed, unknown = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, sent)
    await send(oltp, tenant, bounced)
    await send(oltp, tenant, failed, email_pb.ATTEMPT_OUTCOME_REJECTED)
    await send(oltp, tenant, unknown, email_pb.ATTEMPT_OUTCOME_UNKNOWN)
    kinds = email_pb.EmailEventKind
    opened = kinds.EMAIL_EVENT_KIND_OPENED
    await tell(oltp, tenant, sent, kinds.EMAIL_EVENT_KIND_DELIVERED, opened, opened, kinds.EMAIL_EVENT_KIND_COMPLAINED)
    await tell(oltp, tenant, bounced, kinds.EMAIL_EVENT_KIND_BOUNCED)
    outside = new_email(recipient="bob@example.com")
    await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, create_request(tenant, outside))
    await send(oltp, tenant, outside.id)
    cells = {cell.campaign_id: cell for cell in await count(oltp, stub, tenant)}
    assert cells[scene.campaign] == pb.LedgerCell(
        campaign_id=scene.campaign, step_id=scene.step, email_account_id=scene.mailbox,
        sent=2, delivered=1, opened=1, bounced=1, failed=1, outcome_unknown=1, spam_complaints=1,
    )  # fmt: skip
    assert cells[""] == pb.LedgerCell(sent=1)
    assert len(cells) == 2


async def test_an_unknown_outcome_that_is_settled_is_counted_no_more(
    oltp: TierClient, stub: LedgerServiceStub, tenant: UUID
) -> None:
    scene = await set_scene(oltp, tenant, leads=1)
    (email,) = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, email, email_pb.ATTEMPT_OUTCOME_UNKNOWN)
    before = await changed(oltp, stub, tenant)
    await tell(oltp, tenant, email, email_pb.EMAIL_EVENT_KIND_DELIVERED)
    (cell,) = await count(oltp, stub, tenant)
    assert (cell.sent, cell.delivered, cell.outcome_unknown) == (1, 1, 0)
    assert (await changed(oltp, stub, tenant, before.next_cursor)).days == [today()]


async def test_changes_are_told_once_and_by_the_day_of_the_event(
    oltp: TierClient, stub: LedgerServiceStub, tenant: UUID, stranger: UUID
) -> None:
    scene = await set_scene(oltp, tenant, leads=1)
    (email,) = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, email)
    first = await changed(oltp, stub, tenant)
    assert list(first.days) == [today()]
    assert list((await changed(oltp, stub, tenant, first.next_cursor)).days) == []
    earlier = datetime.now(UTC) - timedelta(days=3)
    at = Timestamp()
    at.FromDatetime(earlier)
    event = email_pb.EmailEvent(
        email_id=email, kind=email_pb.EMAIL_EVENT_KIND_OPENED, provider_event_id="late", occurred_at=at
    )
    request = email_pb.BatchRecordEventsRequest(tenant_id=str(tenant), events=[event])
    await oltp.call(EmailServiceStub(oltp.channel).BatchRecordEvents, request)
    day = earlier.date().isoformat()
    second = await changed(oltp, stub, tenant, first.next_cursor)
    assert list(second.days) == [day]
    (cell,) = await count(oltp, stub, tenant, day)
    assert (cell.opened, cell.sent) == (1, 0)
    assert list((await changed(oltp, stub, stranger)).days) == []
    assert await count(oltp, stub, stranger) == []


async def test_no_change_is_skipped_while_an_older_transaction_is_open(
    oltp: TierClient, stub: LedgerServiceStub, tenant: UUID, db: Database
) -> None:
    scene = await set_scene(oltp, tenant, leads=1)
    (email,) = await write_emails(oltp, tenant, scene, scene.leads)
    began = datetime.now(UTC)
    async with db.tenant(tenant) as connection:
        await connection.execute("SELECT pg_current_xact_id()")
        await send(oltp, tenant, email)
        held = await changed(oltp, stub, tenant)
        later = await changed(oltp, stub, tenant, held.next_cursor)
    assert (list(held.days), list(later.days)) == ([], [])
    # Neither may promise anything of what was committed since the older transaction began.
    for reply in (held, later):
        assert not reply.HasField("data_through") or reply.data_through.ToDatetime(UTC) <= began
    after = await changed(oltp, stub, tenant, later.next_cursor)
    assert list(after.days) == [today()]
    assert after.data_through.ToDatetime(UTC) > began


async def test_a_cursor_from_a_future_that_was_restored_away_begins_anew(
    oltp: TierClient, stub: LedgerServiceStub, tenant: UUID
) -> None:
    scene = await set_scene(oltp, tenant, leads=1)
    (email,) = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, email)
    ahead = Cursor(2**40, datetime.now(UTC)).encode()
    assert list((await changed(oltp, stub, tenant, ahead)).days) == [today()]


async def test_bad_fields_are_named_and_others_are_refused(
    oltp: TierClient, stub: LedgerServiceStub, tenant: UUID, stranger: UUID
) -> None:
    named: dict[str, Any] = {"tenant_id": str(tenant)}
    for method, request, field in [
        (stub.CountDay, pb.CountDayRequest(**named, day="2026-02-30"), "day"),
        (stub.CountDay, pb.CountDayRequest(**named, day="today"), "day"),
        (stub.ListChangedDays, pb.ListChangedDaysRequest(**named, cursor="nonsense"), "cursor"),
        (stub.ListChangedDays, pb.ListChangedDaysRequest(**named, cursor="Wy0xLDAsMCwwXQ"), "cursor"),
    ]:
        with pytest.raises(Refused) as refused:
            await oltp.call(method, request)
        assert refused.value.answer.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.answer.fields == [field]
    for method, request in [
        (stub.CountDay, pb.CountDayRequest(**named, day=today())),
        (stub.ListChangedDays, pb.ListChangedDaysRequest(**named)),
    ]:
        await refuse_others(oltp, method, request, stranger)
    assert await count(oltp, stub, uuid4()) == []
