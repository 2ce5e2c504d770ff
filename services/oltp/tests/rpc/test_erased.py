"""Who is erased does not come back: not by a lead, an email or a suppression, nor by one that is being written meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from services.oltp.tests.rows import create_request, new_email, new_lead, new_message, owed
from services.oltp.tests.rpc import test_inbox, test_leads

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin.oltp.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from penguin_chassis.pool import Connection, Database, alone
from penguin_oltp.domain.subjects import ERASED, pads
from penguin_oltp.store.subjects import WRITING, sql
from penguin_testkit.calling import Refused, TierClient
from penguin_testkit.holds import SUBJECT_KEY, put_hold, release_hold, subject
from penguin_testkit.mentions import mentioned

ADA = "Ada@Example.com"
# Advisory locks that somebody waits for, by pairs of a name and a tenant.
WAITS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND classid = hashtext($1)::oid AND objid = hashtext($2)::oid"
)


def suppress_request(tenant: UUID) -> pb.SuppressSubjectRequest:
    return pb.SuppressSubjectRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), erasure_id=str(uuid4()), subject=subject(ADA),
        subject_key=SUBJECT_KEY, address=ADA,
    )  # fmt: skip


async def suppress(oltp: TierClient, tenant: UUID) -> None:
    await oltp.call(SubjectServiceStub(oltp.channel).SuppressSubject, suppress_request(tenant))


async def some_lead(oltp: TierClient, tenant: UUID) -> str:
    (made,) = await test_leads.create(oltp, tenant, new_lead())
    return made.lead.id


async def by_batch(oltp: TierClient, tenant: UUID, lead: str) -> str:
    *_, told = await test_leads.create(oltp, tenant, new_lead(), new_lead(email=ADA.lower()))
    return errors_pb2.ErrorReason.Name(told.error.reason).removeprefix("ERROR_REASON_")


async def by_update(oltp: TierClient, tenant: UUID, lead: str) -> str:
    request = lead_pb.UpdateLeadRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), lead_id=lead, lead=lead_pb.LeadUpdate(email=ADA),
        update_mask=FieldMask(paths=["email"]),
    )  # fmt: skip
    return await refused(oltp, LeadServiceStub(oltp.channel).UpdateLead, request)


async def by_email(oltp: TierClient, tenant: UUID, lead: str) -> str:
    request = create_request(tenant, new_email(), new_email(recipient=ADA.upper()))
    *_, told = (await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, request)).results
    return errors_pb2.ErrorReason.Name(told.error.reason).removeprefix("ERROR_REASON_")


async def by_suppression(oltp: TierClient, tenant: UUID, lead: str) -> str:
    item = suppression_pb.NewSuppression(request_id=str(uuid4()), id=str(uuid4()), address=ADA)
    request = suppression_pb.CreateSuppressionRequest(tenant_id=str(tenant), suppression=item)
    return await refused(oltp, SuppressionServiceStub(oltp.channel).CreateSuppression, request)


async def refused(oltp: TierClient, method: Any, request: Any) -> str:
    try:
        await oltp.call(method, request)
    except Refused as error:
        return error.answer.reason
    return ""


Way = Callable[[TierClient, UUID, str], Coroutine[Any, Any, str]]
WAYS: dict[Way, str] = {
    by_batch: "SUBJECT_ERASED", by_update: "SUBJECT_ERASED", by_email: "RECIPIENT_SUPPRESSED",
    by_suppression: "ALREADY_EXISTS",
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_who_is_erased_is_not_written_anew(oltp: TierClient, tenant: UUID, stranger: UUID, way: Way) -> None:
    await suppress(oltp, tenant)
    assert await way(oltp, tenant, await some_lead(oltp, tenant)) == WAYS[way]
    assert await way(oltp, stranger, await some_lead(oltp, stranger)) in ("", "UNSPECIFIED"), (
        "erased from one tenant, and barred in another"
    )


async def waited_for(connection: Connection, tenant: UUID, *tasks: asyncio.Task[Any]) -> None:
    """Until one waits for the tenant's other writers."""
    async with asyncio.timeout(5):
        while not await connection.fetchval(WAITS, WRITING, str(tenant)):
            assert not any(task.done() for task in tasks), "it went on beside the others"


@pytest.mark.parametrize("way", WAYS)
async def test_a_writer_sees_a_bar_that_is_being_put(oltp: TierClient, db: Database, tenant: UUID, way: Way) -> None:
    lead = await some_lead(oltp, tenant)
    async with db.tenant(tenant) as barring:
        await alone(barring, tenant, WRITING)
        await barring.execute(sql.put_key, tenant, *pads(SUBJECT_KEY))
        await barring.execute(sql.bar, tenant, bytes.fromhex(subject(ADA)), uuid4(), datetime.now(UTC))
        writing = asyncio.create_task(way(oltp, tenant, lead))
        await waited_for(barring, tenant, writing)
    assert await writing == WAYS[way]


async def test_a_bar_waits_for_the_tenants_writers_and_for_nobody_elses(
    oltp: TierClient, db: Database, tenant: UUID, stranger: UUID
) -> None:
    async with db.tenant(tenant, beside=WRITING) as writing, db.tenant(tenant, beside=WRITING) as another:
        assert await another.fetchval("SELECT 1") == 1
        await suppress(oltp, stranger)
        barring = asyncio.create_task(suppress(oltp, tenant))
        await waited_for(writing, tenant, barring)
    await barring


BOB = "bob@example.com"


async def written_to(oltp: TierClient, tenant: UUID, *recipients: str) -> list[str]:
    """Message-IDs of emails to these."""
    request = create_request(tenant, *(new_email(recipient=each) for each in recipients))
    reply = await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, request)
    return [result.email.message_id for result in reply.results]


async def imported(oltp: TierClient, tenant: UUID, *messages: inbox_pb.NewInboxMessage) -> list[tuple[str, str]]:
    """What each was refused for, and by which field; nothing where it was not."""
    results = await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, *messages)
    return [
        (errors_pb2.ErrorReason.Name(each.error.reason).removeprefix("ERROR_REASON_"), each.error.field)
        if each.HasField("error")
        else ("", "")
        for each in results
    ]


def copy_of(message_id: str, **fields: Any) -> inbox_pb.NewInboxMessage:
    """The copy in the mailbox's folder of sent mail."""
    usual = {"direction": inbox_pb.MESSAGE_DIRECTION_OUTBOUND, "sender": "us@sender.example"}
    return new_message(message_id=message_id, **(usual | fields))


async def standing(db: Database, tenant: UUID) -> set[str]:
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT id FROM inbox_message_refs WHERE tenant_id = $1", tenant)
    return {str(row["id"]) for row in rows}


REFUSED, TAKEN = ("SUBJECT_ERASED", "message_id"), ("", "")


@pytest.mark.parametrize("nameless", [False, True], ids=["once barred", "once nameless"])
async def test_a_copy_of_what_an_erased_person_was_sent_is_refused(
    oltp: TierClient, db: Database, tenant: UUID, stranger: UUID, nameless: bool
) -> None:
    to_ada, to_bob = await written_to(oltp, tenant, ADA.upper(), BOB)
    await suppress(oltp, tenant)
    if nameless:
        await mentioned(oltp, tenant, ADA)
    copy, of_bob = copy_of(to_ada), copy_of(to_bob)
    # A colleague's mailbox has it too, as mail that came in. Whoever writes again does.
    colleagues = copy_of(to_ada, mailbox="x@sender.example", direction=inbox_pb.MESSAGE_DIRECTION_INBOUND)
    reply = new_message(message_id="<re@example.com>", in_reply_to=to_ada, sender=f"Ada <{ADA}>")
    forged = new_message(message_id="<" + "-" * 36 + "@sender.example>", sender=BOB)
    other = new_message(message_id=to_ada.replace("@", "@other."), sender=BOB)
    messages = (copy, of_bob, colleagues, reply, forged, other)
    for _ in range(2):
        assert await imported(oltp, tenant, *messages) == [REFUSED, TAKEN, REFUSED, TAKEN, TAKEN, TAKEN]
    stand = {each.id for each in (of_bob, reply, forged, other)}
    assert await standing(db, tenant) == stand
    claimed = [
        key for _, kind, what in await owed(db, tenant) if kind == "claim_contents" for key in what["storage_keys"]
    ]
    assert not {copy.content_storage_key, colleagues.content_storage_key} & set(claimed)
    assert await imported(oltp, stranger, copy_of(to_ada)) == [TAKEN], "another tenant's letter"


async def test_an_import_of_copies_sees_a_bar_that_is_being_put(oltp: TierClient, db: Database, tenant: UUID) -> None:
    (to_ada,) = await written_to(oltp, tenant, ADA)
    async with db.tenant(tenant) as barring:
        await alone(barring, tenant, WRITING)
        await barring.execute(sql.put_key, tenant, *pads(SUBJECT_KEY))
        await barring.execute(sql.bar, tenant, bytes.fromhex(subject(ADA)), uuid4(), datetime.now(UTC))
        importing = asyncio.create_task(imported(oltp, tenant, copy_of(to_ada)))
        await waited_for(barring, tenant, importing)
    assert await importing == [REFUSED]


@pytest.mark.parametrize("direction", ["OUTBOUND", "INBOUND"])
async def test_copies_go_with_the_person_they_were_sent_to(
    oltp: TierClient, db: Database, tenant: UUID, direction: str
) -> None:
    to_ada, to_bob = await written_to(oltp, tenant, ADA, BOB)
    way = inbox_pb.MessageDirection.Value(f"MESSAGE_DIRECTION_{direction}")
    of_ada, of_bob = (copy_of(each, direction=way) for each in (to_ada, to_bob))
    assert await imported(oltp, tenant, of_ada, of_bob) == [TAKEN, TAKEN]
    await suppress(oltp, tenant)
    await mentioned(oltp, tenant, ADA)
    assert await standing(db, tenant) == {of_bob.id}
    assert ("content", "delete_contents", {"storage_keys": [of_ada.content_storage_key]}) in await owed(db, tenant)


async def test_copies_left_of_who_was_erased_before_go_with_the_next_erasure_but_under_a_hold(
    oltp: TierClient, db: Database, tenant: UUID
) -> None:
    (to_ada,) = await written_to(oltp, tenant, ADA)
    left = copy_of(to_ada)
    assert await imported(oltp, tenant, left) == [TAKEN]
    # As an erasure left it when copies were not known yet.
    async with db.tenant(tenant) as connection:
        found = [row["id"] for row in await connection.fetch(sql.lock_emails, tenant, ADA.lower(), 10)]
        await connection.execute(sql.anonymise, tenant, found, ERASED)
    hold = await put_hold(oltp, tenant, subject=subject("eve@example.com"))
    await mentioned(oltp, tenant, BOB)
    assert await standing(db, tenant) == {left.id}, "whose it is nobody knows"
    await release_hold(oltp, tenant, hold)
    await mentioned(oltp, tenant, ADA)
    assert await standing(db, tenant) == set()
    assert ("content", "delete_contents", {"storage_keys": [left.content_storage_key]}) in await owed(db, tenant)
