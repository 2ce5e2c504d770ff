"""What a legal hold on a person keeps in OLTP: their lead, what they wrote, and the tenant's record of repeated events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import orjson
import pytest
from services.oltp.tests.rows import create_request, new_email, new_lead, new_message
from services.oltp.tests.rpc import test_inbox, test_leads

from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin_chassis import subjects
from penguin_chassis.pool import Database
from penguin_oltp.store import EVENT_ID_RETENTION, _event_partitions
from penguin_testkit.calling import Refused, TierClient
from penguin_testkit.holds import SUBJECT_KEY, put_hold, release_hold, subject
from penguin_testkit.mentions import mentioned

ADA = "Ada.Lovelace@example.com"


async def delete_lead(oltp: TierClient, tenant: UUID, lead: str) -> None:
    request = lead_pb.DeleteLeadRequest(tenant_id=str(tenant), request_id=str(uuid4()), lead_id=lead)
    await oltp.call(LeadServiceStub(oltp.channel).DeleteLead, request)


async def delete_messages(oltp: TierClient, tenant: UUID, *messages: inbox_pb.NewInboxMessage) -> int:
    request = inbox_pb.DeleteInboxMessagesRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), inbox_message_ids=[each.id for each in messages]
    )
    return int((await oltp.call(InboxServiceStub(oltp.channel).DeleteInboxMessages, request)).deleted)


async def test_the_lead_of_a_held_person_is_not_deleted(oltp: TierClient, tenant: UUID) -> None:
    ada, bob = new_lead(email=ADA), new_lead()
    await test_leads.create(oltp, tenant, ada, bob)
    hold = await put_hold(oltp, tenant, subject=subject(ADA), subject_key=SUBJECT_KEY)
    with pytest.raises(Refused) as refused:
        await delete_lead(oltp, tenant, ada.id)
    assert (refused.value.answer.reason, refused.value.answer.metadata) == ("LEGAL_HOLD", {"hold": hold.id})
    await delete_lead(oltp, tenant, bob.id)
    await release_hold(oltp, tenant, hold)
    await delete_lead(oltp, tenant, ada.id)


@pytest.mark.parametrize("sender", [ADA.lower(), f"Ada Lovelace <{ADA}>", f'"A <x@y.example>" <{ADA}>', f"{ADA} (Ada)"])
async def test_what_a_held_person_wrote_is_not_deleted(oltp: TierClient, tenant: UUID, sender: str) -> None:
    theirs, other = new_message(sender=sender), new_message(sender="bob@example.com")
    await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, theirs, other)
    hold = await put_hold(oltp, tenant, subject=subject(ADA), subject_key=SUBJECT_KEY)
    with pytest.raises(Refused) as refused:
        await delete_messages(oltp, tenant, theirs, other)
    assert refused.value.answer.reason == "LEGAL_HOLD"
    assert await delete_messages(oltp, tenant, other) == 1
    await release_hold(oltp, tenant, hold)
    assert await delete_messages(oltp, tenant, theirs) == 1


@pytest.mark.parametrize("direction", ["OUTBOUND", "INBOUND"])
async def test_a_copy_of_what_a_held_person_was_sent_is_not_deleted(
    oltp: TierClient, tenant: UUID, direction: str
) -> None:
    emails = create_request(tenant, *(new_email(recipient=each) for each in (ADA, "bob@example.com")))
    sent = (await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, emails)).results
    way = inbox_pb.MessageDirection.Value(f"MESSAGE_DIRECTION_{direction}")
    theirs, other = (
        new_message(message_id=each.email.message_id, direction=way, sender="us@sender.example") for each in sent
    )
    await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, theirs, other)
    await put_hold(oltp, tenant, subject=subject(ADA), subject_key=SUBJECT_KEY)
    with pytest.raises(Refused) as refused:
        await delete_messages(oltp, tenant, theirs)
    assert refused.value.answer.reason == "LEGAL_HOLD"
    assert await delete_messages(oltp, tenant, other) == 1


async def test_what_stands_under_a_held_key_is_not_deleted(oltp: TierClient, tenant: UUID) -> None:
    theirs = new_message()
    await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, theirs)
    await put_hold(oltp, tenant, subject=subject(ADA), storage_keys=[theirs.content_storage_key])
    with pytest.raises(Refused) as refused:
        await delete_messages(oltp, tenant, theirs)
    assert refused.value.answer.reason == "LEGAL_HOLD"


async def test_an_erasure_takes_nothing_under_a_held_key_that_it_was_not_told_of(
    oltp: TierClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever page of its letters the held one is on, and though no call of the erasure names a key."""
    monkeypatch.setattr(subjects, "SCANNED", 2)
    letters = [new_message(sender=ADA) for _ in range(5)]
    email = new_email(recipient=ADA)
    await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, *letters)
    await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, create_request(tenant, email))

    async def stand() -> tuple[int, int, int]:
        async with db.tenant(tenant) as connection:
            counts = (
                "SELECT count(*) FROM inbox_message_refs WHERE tenant_id = $1",
                "SELECT count(*) FROM emails WHERE tenant_id = $1 AND recipient_key = lower($2)",
                "SELECT count(*) FROM outbox WHERE tenant_id = $1 AND kind = 'delete_contents'",
            )
            found = [await connection.fetchval(q, tenant, *([ADA] if "$2" in q else [])) for q in counts]
        return found[0], found[1], found[2]

    newest = max(letters, key=lambda each: UUID(each.id))
    for held in (newest.content_storage_key, email.content_storage_key):
        hold = await put_hold(oltp, tenant, storage_key=held)
        with pytest.raises(Refused) as refused:
            await mentioned(oltp, tenant, ADA)
        assert (refused.value.answer.reason, refused.value.answer.metadata) == ("LEGAL_HOLD", {"hold": hold.id})
        assert await stand() == (5, 1, 0), "what was refused had its way in part"
        await release_hold(oltp, tenant, hold)
    await mentioned(oltp, tenant, ADA)
    assert await stand() == (0, 0, 3), "letters of each page are owed to Content"


async def test_an_erasure_takes_no_letter_that_a_hold_on_somebody_else_keeps(
    oltp: TierClient, db: Database, tenant: UUID
) -> None:
    """The tenant's own user is erased: copies of what they sent to a held person are kept by that person's hold."""
    bob = "bob@example.com"
    await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, create_request(tenant, new_email(recipient=bob)))
    async with db.tenant(tenant) as connection:
        message_id = await connection.fetchval("SELECT message_id FROM emails WHERE tenant_id = $1", tenant)
    hold = await put_hold(oltp, tenant, subject=subject(bob), subject_key=SUBJECT_KEY)
    copy = new_message(sender=ADA, message_id=message_id, direction=inbox_pb.MESSAGE_DIRECTION_OUTBOUND)
    await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, copy)
    with pytest.raises(Refused) as refused:
        await mentioned(oltp, tenant, ADA)
    assert refused.value.answer.reason == "LEGAL_HOLD"
    await release_hold(oltp, tenant, hold)
    await mentioned(oltp, tenant, ADA)
    assert await delete_messages(oltp, tenant, copy) == 0


async def test_content_is_owed_the_keys_that_come_later_and_of_held_people_alone(
    oltp: TierClient, db: Database, tenant: UUID
) -> None:
    async def owed() -> list[dict[str, object]]:
        async with db.tenant(tenant) as connection:
            kind = (
                "SELECT payload FROM outbox WHERE tenant_id = $1 AND kind = 'extend_legal_hold' ORDER BY created_at, id"
            )
            return [orjson.loads(row["payload"]) for row in await connection.fetch(kind, tenant)]

    async def write() -> list[str]:
        emails = [new_email(recipient=each) for each in (ADA.upper(), "bob@example.com")]
        await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, create_request(tenant, *emails))
        letters = [new_message(sender=each) for each in (f"Ada <{ADA}>", "bob@example.com")]
        await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, *letters)
        # The same letter once more is none that comes later.
        await test_inbox.create(oltp, InboxServiceStub(oltp.channel), tenant, letters[0])
        return [emails[0].content_storage_key, letters[0].content_storage_key]

    await put_hold(oltp, tenant, subject=subject(ADA))
    await write()
    assert await owed() == [], "without its key the tier knows nobody by the hold"
    hold = await put_hold(oltp, tenant, subject=subject(ADA), subject_key=SUBJECT_KEY)
    email, letter = await write()
    assert await owed() == [{"hold_id": hold.id, "storage_keys": [key]} for key in (email, letter)]
    await release_hold(oltp, tenant, hold)
    await write()
    assert len(await owed()) == 2


async def test_ids_of_events_stay_while_a_hold_of_their_tenant_does(
    oltp: TierClient, db: Database, tenant: UUID
) -> None:
    day = datetime.now(UTC).date() + timedelta(days=1)
    later = datetime.now(UTC) + EVENT_ID_RETENTION + timedelta(days=30)

    async def days() -> int:
        async with db.tenant(tenant) as connection:
            return int(await connection.fetchval("SELECT count(*) FROM email_event_ids WHERE tenant_id = $1", tenant))

    async with db.tenant(tenant) as connection:
        await connection.execute("INSERT INTO email_event_ids VALUES ($1, $2, 'open', 'x', $3)", tenant, uuid4(), day)
    hold = await put_hold(oltp, tenant, subject=subject(ADA))
    await _event_partitions(db, later)
    assert await days() == 1
    await release_hold(oltp, tenant, hold)
    await _event_partitions(db, later)
    assert await days() == 0
