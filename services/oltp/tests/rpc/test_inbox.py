"""InboxService as its clients see it."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.oltp.tests.rows import inbox_request, new_message, owed, refuse_others

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import inbox_service_pb2 as pb
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin_chassis.pool import Database
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(oltp: TierClient) -> InboxServiceStub:
    return InboxServiceStub(oltp.channel)


async def create(
    oltp: TierClient, stub: InboxServiceStub, tenant: UUID, *messages: pb.NewInboxMessage
) -> list[pb.CreateInboxMessageResult]:
    """A batch create."""
    return list((await oltp.call(stub.BatchCreateInboxMessages, inbox_request(tenant, *messages))).results)


async def get(oltp: TierClient, stub: InboxServiceStub, tenant: UUID, message_id: str) -> pb.InboxMessage:
    """One reference."""
    request = pb.GetInboxMessageRequest(tenant_id=str(tenant), inbox_message_id=message_id)
    found: pb.InboxMessage = (await oltp.call(stub.GetInboxMessage, request)).inbox_message
    return found


async def test_what_is_imported_is_read_and_its_content_claimed(
    oltp: TierClient, stub: InboxServiceStub, tenant: UUID, db: Database
) -> None:
    item = new_message(subject="Be\0fore", defects=["Undecod\0ableSubject", "NoDate"], in_reply_to="<x@y.example>")
    (created,) = await create(oltp, stub, tenant, item)
    assert (created.message.id, created.message.existed) == (item.id, False)
    found = await get(oltp, stub, tenant, item.id)
    assert (found.subject, list(found.defects)) == ("Before", ["UndecodableSubject", "NoDate"])
    for name in ("mailbox", "direction", "message_id", "in_reply_to", "thread_id", "sender", "fingerprint"):
        assert getattr(found, name) == getattr(item, name)
    assert found.HasField("received_at")
    assert not found.HasField("sent_at")
    assert await owed(db, tenant) == [("content", "claim_contents", {"storage_keys": [item.content_storage_key]})]


async def test_a_second_import_names_the_first_and_claims_nothing(
    oltp: TierClient, stub: InboxServiceStub, tenant: UUID, db: Database
) -> None:
    item = new_message()
    again = new_message(fingerprint=item.fingerprint, mailbox=item.mailbox.upper())
    twin = new_message(fingerprint=item.fingerprint)
    elsewhere = new_message(fingerprint=item.fingerprint, mailbox="other@sender.example")
    first, inside = await create(oltp, stub, tenant, item, twin)
    assert (inside.message.id, inside.message.existed) == (item.id, True)
    second, other = await create(oltp, stub, tenant, again, elsewhere)
    assert (second.message.id, second.message.content_storage_key) == (item.id, item.content_storage_key)
    assert (first.message.existed, second.message.existed, other.message.existed) == (False, True, False)
    claimed = [payload["storage_keys"] for _, _, payload in await owed(db, tenant)]
    assert claimed == [[item.content_storage_key], [elsewhere.content_storage_key]]


async def test_a_replay_gets_the_first_answer_and_a_reuse_is_refused(
    oltp: TierClient, stub: InboxServiceStub, tenant: UUID, db: Database
) -> None:
    item = new_message()
    first = await create(oltp, stub, tenant, item)
    item.id, item.content_storage_key = str(uuid4()), f"k/{uuid4()}"
    assert await create(oltp, stub, tenant, item) == first
    assert len(await owed(db, tenant)) == 1
    other = new_message(request_id=item.request_id)
    (refused,) = await create(oltp, stub, tenant, other)
    assert refused.error.reason == errors_pb2.ERROR_REASON_REQUEST_ID_REUSED


async def test_a_key_or_id_of_another_message_sinks_only_its_own_item(
    oltp: TierClient, stub: InboxServiceStub, tenant: UUID
) -> None:
    item = new_message()
    await create(oltp, stub, tenant, item)
    same_key = new_message(content_storage_key=item.content_storage_key)
    good = new_message()
    same_id_in_batch = new_message(id=good.id)
    results = await create(oltp, stub, tenant, same_key, good, same_id_in_batch)
    assert [r.WhichOneof("outcome") for r in results] == ["error", "message", "error"]
    assert results[0].error.reason == errors_pb2.ERROR_REASON_ALREADY_EXISTS


async def test_the_pivot_is_refused_past_claim_by(oltp: TierClient, stub: InboxServiceStub, tenant: UUID) -> None:
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.BatchCreateInboxMessages, inbox_request(tenant, new_message(), claim_s=-1))
    assert refused.value.answer.reason == "CONTENT_CLAIM_EXPIRED"


async def test_lists_by_mailbox_and_thread_in_pages(oltp: TierClient, stub: InboxServiceStub, tenant: UUID) -> None:
    thread = [new_message(thread_id="<t@b.example>") for _ in range(3)]
    other = new_message(mailbox="other@sender.example", thread_id="<t@b.example>")
    alone = new_message()
    await create(oltp, stub, tenant, *thread, other, alone)
    everything = sorted(m.id for m in (*thread, other, alone))
    queries: list[tuple[dict[str, Any], list[str]]] = [
        ({}, everything),
        ({"mailbox": "us@SENDER.example"}, sorted(m.id for m in (*thread, alone))),
        ({"thread_id": "<t@b.example>"}, sorted(m.id for m in (*thread, other))),
        ({"thread_id": "<t@b.example>", "mailbox": "Other@sender.example"}, [other.id]),
        ({"thread_id": "<none@b.example>"}, []),
    ]
    for filters, expected in queries:
        seen: list[str] = []
        token = ""
        while True:
            request = pb.ListInboxMessagesRequest(tenant_id=str(tenant), page_size=2, page_token=token, **filters)
            page = await oltp.call(stub.ListInboxMessages, request)
            seen += [m.id for m in page.inbox_messages]
            token = page.next_page_token
            if not token:
                break
        assert seen == expected


async def test_fingerprints_are_found_in_their_mailbox(oltp: TierClient, stub: InboxServiceStub, tenant: UUID) -> None:
    item = new_message()
    await create(oltp, stub, tenant, item)
    for mailbox, expected in [("us@sender.EXAMPLE", [item.fingerprint]), ("other@sender.example", [])]:
        request = pb.FindFingerprintsRequest(
            tenant_id=str(tenant), mailbox=mailbox, fingerprints=[item.fingerprint, "0" * 64]
        )
        assert list((await oltp.call(stub.FindFingerprints, request)).found) == expected


async def test_deleting_owes_the_contents_deletion(
    oltp: TierClient, stub: InboxServiceStub, tenant: UUID, db: Database
) -> None:
    item, kept = new_message(), new_message()
    await create(oltp, stub, tenant, item, kept)
    request = pb.DeleteInboxMessagesRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), inbox_message_ids=[item.id, str(uuid4())]
    )
    for _ in range(2):
        assert (await oltp.call(stub.DeleteInboxMessages, request)).deleted == 1
    with pytest.raises(Refused) as refused:
        await get(oltp, stub, tenant, item.id)
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
    assert (await get(oltp, stub, tenant, kept.id)).id == kept.id
    deletions = [payload for _, kind, payload in await owed(db, tenant) if kind == "delete_contents"]
    assert deletions == [{"storage_keys": [item.content_storage_key]}]
    request.inbox_message_ids[:] = [kept.id]
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.DeleteInboxMessages, request)
    assert refused.value.answer.reason == "REQUEST_ID_REUSED"


async def test_bad_fields_are_named(oltp: TierClient, stub: InboxServiceStub, tenant: UUID) -> None:
    bad = new_message(fingerprint="XYZ", direction=pb.MESSAGE_DIRECTION_UNSPECIFIED)
    calls: list[tuple[Any, Any, set[str]]] = [
        (stub.BatchCreateInboxMessages, inbox_request(tenant, bad), {"messages[0].fingerprint", "messages[0].direction"}),
        (stub.GetInboxMessage, pb.GetInboxMessageRequest(tenant_id=str(tenant)), {"inbox_message_id"}),
        (stub.ListInboxMessages, pb.ListInboxMessagesRequest(tenant_id=str(tenant), page_size=5000), {"page_size"}),
        (stub.FindFingerprints, pb.FindFingerprintsRequest(tenant_id=str(tenant)), {"mailbox", "fingerprints"}),
        (stub.DeleteInboxMessages, pb.DeleteInboxMessagesRequest(tenant_id=str(tenant)),
         {"request_id", "inbox_message_ids"}),
    ]  # fmt: skip
    for method, request, fields in calls:
        with pytest.raises(Refused) as refused:
            await oltp.call(method, request)
        assert set(refused.value.answer.fields) == fields


async def test_the_inbox_is_its_tenants_alone(
    oltp: TierClient, stub: InboxServiceStub, tenant: UUID, stranger: UUID
) -> None:
    item = new_message()
    await create(oltp, stub, tenant, item)
    named: dict[str, Any] = {"tenant_id": str(tenant)}
    calls: list[tuple[Any, Any]] = [
        (stub.BatchCreateInboxMessages, inbox_request(tenant, new_message())),
        (stub.GetInboxMessage, pb.GetInboxMessageRequest(**named, inbox_message_id=item.id)),
        (stub.ListInboxMessages, pb.ListInboxMessagesRequest(**named)),
        (stub.FindFingerprints,
         pb.FindFingerprintsRequest(**named, mailbox=item.mailbox, fingerprints=[item.fingerprint])),
        (stub.DeleteInboxMessages,
         pb.DeleteInboxMessagesRequest(**named, request_id=str(uuid4()), inbox_message_ids=[item.id])),
    ]  # fmt: skip
    for method, request in calls:
        await refuse_others(oltp, method, request, stranger)
    with pytest.raises(Refused) as refused:
        await get(oltp, stub, stranger, item.id)
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
    deleting = pb.DeleteInboxMessagesRequest(
        tenant_id=str(stranger), request_id=str(uuid4()), inbox_message_ids=[item.id]
    )
    assert (await oltp.call(stub.DeleteInboxMessages, deleting)).deleted == 0
    with pytest.raises(Refused) as refused:
        await create(oltp, stub, uuid4(), new_message())
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
