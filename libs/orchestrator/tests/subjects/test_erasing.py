"""A person with a thousand emails is erased: nothing of theirs is left in any tier, nor comes back with an old backup."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import grpc
import pytest
from libs.orchestrator.tests.subjects import lives
from libs.orchestrator.tests.subjects.conftest import Town
from libs.orchestrator.tests.subjects.lives import ADDRESS, OTHER, Life
from tests.contract.tiers import TIERS

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.queue.v1 import queue_service_pb2 as queue_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.tier.v1 import erasure_pb2
from penguin_devstack.valkey import ValkeyServer
from penguin_orchestrator import blobs
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.leadfiles import Report
from penguin_orchestrator.mailsources import Source
from penguin_orchestrator.messages import OutgoingEmail, Refusal, Sent
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler
from penguin_orchestrator.sagas import leads
from penguin_orchestrator.sagas.carrying import SagaRefusedError
from penguin_orchestrator.sagas.deeds import Deed

EMAILS = 1000
# What is Bob's and mentions Ada: told, and left to somebody's decision. Table and column as they are stored.
BOBS = {
    "oltp": {"leads.custom_fields", "emails.subject"}, "content": {"content_objects.body"},
    # Of the platform's event; the tenant's own is emptied.
    "notifications": {"admin_system_events.description", "admin_system_events.details"},
}  # fmt: skip


class KilledError(Exception):
    """The process was ended."""


def columns(places: list[str]) -> set[str]:
    return {place.split()[0] for place in places}


async def left(town: Town, tier: str) -> set[str]:
    """Columns of a tier in which the address still stands, but for what is Bob's."""
    return columns(await lives.found(town, tier)) - BOBS.get(tier, set())


async def assert_gone(town: Town, life: Life, valkey: ValkeyServer) -> None:
    for tier in TIERS:
        assert await left(town, tier) == set(), tier
    assert await lives.found_in_redis(valkey.url) == []
    told = [record async for record in town.penguin.subjects.tell(life.tenant, ADDRESS)]
    assert told == []


async def referred(town: Town) -> int:
    """Keys that OLTP tells reconcile of."""
    connection = await town.superuser("oltp")
    try:
        return int(await connection.fetchval("SELECT count(*) FROM storage_keys WHERE generation >= 0"))
    finally:
        await connection.close()


def mentions(erasure: pb.Erasure) -> dict[str, set[tuple[str, str]]]:
    return {each.tier: {(m.table, m.place) for m in each.mentions} for each in erasure.mentions if each.total}


@pytest.mark.timeout(240)
async def test_a_person_is_erased_for_good(town: Town, valkey: ValkeyServer) -> None:
    life = await lives.led(town, EMAILS)
    before = await lives.counted(town, life)
    assert before, "the day has no cells: nothing would be shown by their agreeing"
    for tier in ("oltp", "content", "notifications"):
        assert await left(town, tier), f"{tier} held nothing of theirs to begin with"
    export_id = await town.penguin.subjects.export(life.tenant, ADDRESS)
    exported = [record async for record in town.penguin.subjects.exported(life.tenant, export_id)]
    assert {record.table for record in exported} == {
        "leads", "emails", "inbox_message_refs", "suppressions", "content_objects", "notifications",
    }  # fmt: skip
    assert sum(record.table == "content_objects" for record in exported) == EMAILS + 1
    assert not [r for r in exported for who in lives.NEIGHBOURS if who.lower().encode() in r.record.lower()]
    neighbours = await lives.of_neighbours(town)
    assert all(neighbours.values()), "they have nothing that could be taken from them"
    backups = {tier: town.back_up(tier) for tier in ("content", "oltp")}

    erasure = await town.penguin.subjects.erase(life.tenant, ADDRESS.upper())

    await assert_gone(town, life, valkey)
    assert await lives.of_neighbours(town) == neighbours
    assert await lives.counted(town, life) == before, "the recount disagrees"
    assert mentions(erasure) == {
        "oltp": {("leads", "custom_fields"), ("emails", "subject")},
        "content": {("content_objects", place) for place in ("text", "source")},
        "notifications": {("admin_system_events", place) for place in ("description", "details")},
    }
    # What is gone on purpose is not missed by reconcile: it compares generations from 0 on.
    assert await referred(town) == 2 + 2 * len(lives.NEIGHBOURS)
    counts = {receipt.tier: dict(receipt.counts) for receipt in erasure.receipts}
    assert counts["oltp"]["emails"] == EMAILS
    assert counts["oltp"]["leads"] == 2
    # Their emails, their letter, the report of an import that names them, and the files of their export.
    assert counts["content"]["content_objects"] == EMAILS + 2 + len({record.tier for record in exported})
    assert counts["queue"]["jobs"] > 0
    assert counts["notifications"]["notifications"] == 1
    assert counts["notifications"]["admin_system_events"] == 1
    # The answers to whoever told of her, of the tenant or of the platform: the notification's, and two of events.
    assert counts["notifications"]["step_barrier"] >= 2
    assert await town.penguin.subjects.verify(life.tenant) == []
    await assert_not_written_to(town, life)

    for tier, backup in backups.items():
        await town.restore(tier, backup)
        assert await left(town, tier), "the backup is from before"
        await town.penguin.subjects.mark_restored(tier)
        assert await missing(town, life, tier) == "UNAVAILABLE RESTORE_NOT_REPLAYED", "the tier serves what was erased"
        compared = await Reconciler(town.tiers).run(Terms(apply=True))
        assert compared.refused_reason.endswith(f"{tier} does not answer: UNAVAILABLE RESTORE_NOT_REPLAYED")
        replayed = await town.penguin.subjects.replay()
        assert (replayed.erased, replayed.kept, replayed.ready) == (1, {}, [tier])
        await assert_gone(town, life, valkey)
        assert await lives.of_neighbours(town) == neighbours
        assert await town.penguin.subjects.restoring() == {}
    assert await lives.counted(town, life) == before
    assert await town.penguin.subjects.verify(life.tenant) == []
    await assert_not_written_to(town, life)


async def missing(town: Town, life: Life, tier: str) -> str:
    """Why a tier tells nothing of theirs. Without OLTP, which keeps the record of it, none does."""

    async def told() -> dict[str, str]:
        return {each.tier: each.missing async for each in town.penguin.subjects.tell(life.tenant, ADDRESS)}

    if tier != "oltp":
        return (await told())[tier]
    with pytest.raises(TierError) as refused:
        await told()
    return f"{refused.value.code.name} {refused.value.reason}"


async def assert_not_written_to(town: Town, life: Life) -> None:
    """Neither a new email nor one that is claimed reaches them, and nobody else is kept from being written to."""
    new = [OutgoingEmail(address, lives.MAILBOX, "Again", text="Hi") for address in (ADDRESS, OTHER)]
    refused, sent = await town.penguin.send_emails(life.tenant, new)
    assert isinstance(refused, Refusal)
    assert refused.reason == "RECIPIENT_SUPPRESSED"
    assert not isinstance(sent, Refusal)
    oltp = town.tiers["oltp"]
    request = email_pb.ListEmailsRequest(
        tenant_id=str(life.tenant), recipient="erased@erased.invalid", status=email_pb.EMAIL_STATUS_QUEUED
    )
    assert not (await oltp.call(oltp.stub(EmailServiceStub).ListEmails, request)).emails


@pytest.mark.timeout(120)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_mailboxs_copy_of_a_letter_to_them_goes_too_or_is_refused(town: Town, when: str) -> None:
    penguin = town.penguin
    tenant = await penguin.tenants.onboard("Acme")
    new = [OutgoingEmail(each, lives.MAILBOX, "Offer", text=f"Dear {each}") for each in (ADDRESS, OTHER)]
    sent = [each for each in await penguin.send_emails(tenant, new) if isinstance(each, Sent)]
    copies = [
        Source(to, f"From: {lives.MAILBOX}\r\nTo: {to}\r\nMessage-ID: {each.message_id}\r\n\r\nDear {to}\r\n".encode())
        for each, to in zip(sent, (ADDRESS, OTHER), strict=True)
    ]
    if when == "before":
        done = await penguin.inbox.run(tenant, lives.MAILBOX, copies)
        assert (done.imported, done.refused) == (2, 0)
        await lives.deliver(town)
        told = [each.table async for each in penguin.subjects.tell(tenant, ADDRESS)]
        assert told.count("inbox_message_refs") == 1, "an export has the copy"
    await penguin.subjects.erase(tenant, ADDRESS)
    for _ in range(2):
        done = await penguin.inbox.run(tenant, lives.MAILBOX, copies)
        assert done.problems == [(ADDRESS, "message_id: The person was erased, and stays so.")]
        await lives.deliver(town)
    assert {tier: await lives.found(town, tier) for tier in ("oltp", "content")} == {"oltp": [], "content": []}
    assert await lives.found(town, "content", OTHER), "another's letter and its copy stand"
    run = await Reconciler(town.tiers, ledger=penguin.subjects.ledger).run(Terms(apply=False, tenant_id=tenant))
    assert (run.counts["found.erased_person"], run.counts["erased_looked_for"]) == (0, 1)


@pytest.mark.timeout(120)
async def test_a_legal_hold_keeps_what_is_a_persons_whatever_way_it_would_go(town: Town) -> None:
    life = await lives.led(town, 8)
    subjects, content, oltp = town.penguin.subjects, town.tiers["content"], town.tiers["oltp"]
    await subjects.hold(life.tenant, "Case 7", address=ADDRESS)
    records = [record async for record in subjects.tell(life.tenant, ADDRESS)]
    contents, leads, letters = (
        [record.key for record in records if record.table == table]
        for table in ("content_objects", "leads", "inbox_message_refs")
    )
    assert contents
    assert letters
    request = content_pb.DeleteContentsRequest(
        tenant_id=str(life.tenant), request_id=str(uuid4()), storage_keys=[*contents, life.mentioned]
    )
    reply = await content.call(content.stub(ContentServiceStub).DeleteContents, request)
    assert (reply.deleted, sorted(reply.held_keys)) == (1, sorted(contents))
    queue, ready = town.tiers["queue"], queue_pb.PurgeFilter(state=queue_pb.JOB_STATE_READY)
    for tier, method, removal in (
        (oltp, oltp.stub(LeadServiceStub).DeleteLead, lead_pb.DeleteLeadRequest(lead_id=leads[0])),
        (oltp, oltp.stub(InboxServiceStub).DeleteInboxMessages, inbox_pb.DeleteInboxMessagesRequest(inbox_message_ids=letters)),
        (queue, queue.stub(QueueServiceStub).PurgeJobs, queue_pb.PurgeJobsRequest(filter=ready)),
    ):  # fmt: skip
        removal.tenant_id, removal.request_id = str(life.tenant), str(uuid4())
        with pytest.raises(TierError) as error:
            await tier.call(method, removal)
        assert error.value.reason == "LEGAL_HOLD"
    for name in TIERS:
        held = [hold.subject async for hold in subjects.holds(name, life.tenant)]
        assert held == [subjects.ledger.subject(life.tenant, ADDRESS)], name


@pytest.mark.timeout(120)
async def test_a_hold_keeps_what_comes_later(town: Town) -> None:
    life = await lives.led(town, 8)
    subjects, content = town.penguin.subjects, town.tiers["content"]
    hold = await subjects.hold(life.tenant, "Case 7", address=ADDRESS)
    before = {each.key async for each in subjects.tell(life.tenant, ADDRESS) if each.table == "content_objects"}
    new = [OutgoingEmail(address, lives.MAILBOX, "Again", text="Hi") for address in (ADDRESS.upper(), OTHER)]
    await town.penguin.send_emails(life.tenant, new)
    letters = [Source(f"l{n}", lives.LETTER.replace("a1@", f"a{n}@").encode()) for n in (2, 3)]
    await town.penguin.inbox.run(life.tenant, lives.MAILBOX, letters)
    await lives.deliver(town)
    later = {each.key async for each in subjects.tell(life.tenant, ADDRESS) if each.table == "content_objects"} - before
    assert len(later) == 3
    request = content_pb.DeleteContentsRequest(
        tenant_id=str(life.tenant), request_id=str(uuid4()), storage_keys=sorted(later)
    )
    reply = await content.call(content.stub(ContentServiceStub).DeleteContents, request)
    assert (reply.deleted, set(reply.held_keys)) == (0, later)
    # What is owed after the release keeps nothing, and stands in nobody's way.
    await town.penguin.send_emails(life.tenant, [OutgoingEmail(ADDRESS, lives.MAILBOX, "Once more", text="Hi")])
    await subjects.release(life.tenant, hold)
    await lives.deliver(town)
    request.request_id = str(uuid4())
    assert (await content.call(content.stub(ContentServiceStub).DeleteContents, request)).deleted == 3


@pytest.mark.timeout(120)
async def test_a_hold_of_more_keys_than_one_call_takes_is_put_in_parts(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penguin_orchestrator.subjects.KEYS_A_PART", 4)
    life = await lives.led(town, 8)
    subjects = town.penguin.subjects
    hold = await subjects.hold(life.tenant, "Case 7", address=ADDRESS)
    # Eight emails, and the letter.
    assert [each.kept_keys async for each in subjects.holds("content", life.tenant)] == [4, 4, 1]
    await subjects.release(life.tenant, hold)
    for tier in TIERS:
        assert [each async for each in subjects.holds(tier, life.tenant)] == []
    with pytest.raises(TierError) as none:
        await subjects.release(life.tenant, hold)
    assert none.value.reason == "NOT_FOUND"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ended", [1, 2, 3])
async def test_a_release_that_died_is_gone_on_with(town: Town, monkeypatch: pytest.MonkeyPatch, ended: int) -> None:
    monkeypatch.setattr("penguin_orchestrator.subjects.KEYS_A_PART", 1)
    tenant = await town.penguin.tenants.onboard("Acme")
    outgoing = [OutgoingEmail(ADDRESS, lives.MAILBOX, f"Hello {n}", text="Dear Ada") for n in range(3)]
    await town.penguin.send_emails(tenant, outgoing)
    subjects, content = town.penguin.subjects, town.tiers["content"]
    hold = await subjects.hold(tenant, "Case 7", address=ADDRESS)
    assert len([each async for each in subjects.holds("content", tenant)]) == 3
    insist, asked = content.insist, [0]

    async def die(method: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, erasure_pb2.ReleaseLegalHoldRequest):
            asked[0] += 1
            if asked[0] == ended:
                raise KilledError
        return await insist(method, request, **more)

    with monkeypatch.context() as dying:
        dying.setattr(content, "insist", die)
        with pytest.raises(KilledError):
            await subjects.release(tenant, hold)
    await subjects.release(tenant, hold)
    assert [each.id for tier in TIERS async for each in subjects.holds(tier, tenant)] == []
    await subjects.erase(tenant, ADDRESS)


@pytest.mark.timeout(120)
async def test_a_legal_hold_refuses_before_anything_is_erased(town: Town) -> None:
    life = await lives.led(town, 8)
    before = {tier: await lives.found(town, tier) for tier in TIERS}
    subjects = town.penguin.subjects
    by_person = await subjects.hold(life.tenant, "Case 7", address=ADDRESS)
    with pytest.raises(TierError) as refused:
        await subjects.erase(life.tenant, ADDRESS)
    assert refused.value.reason == "LEGAL_HOLD"
    # Nor is anything ordered for those who joined what was refused.
    asked = [town.penguin.subjects.erase(life.tenant, ADDRESS) for _ in range(6)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, (TierError, SagaRefusedError)) for each in ended)
    assert subjects.ledger.orders() == []
    await subjects.release(life.tenant, by_person)
    keys = [r.key async for r in subjects.tell(life.tenant, ADDRESS) if r.table == "content_objects"]
    by_key = await subjects.hold(life.tenant, "Case 8", key=keys[-1])
    assert [hold.storage_key async for hold in subjects.holds("content", life.tenant)] == [keys[-1]]
    with pytest.raises(TierError) as refused:
        await subjects.erase(life.tenant, ADDRESS)
    assert refused.value.reason == "LEGAL_HOLD"
    for tier in TIERS:
        assert columns(await lives.found(town, tier)) == columns(before[tier]), tier
    # What was refused is not carried out by a replay either.
    assert town.penguin.subjects.ledger.orders() == []
    await subjects.release(life.tenant, by_key)
    await subjects.erase(life.tenant, ADDRESS)
    assert await left(town, "content") == set()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("stored", "lost"), [(False, False), (True, False), (False, True), (True, True)])
async def test_who_is_erased_is_in_no_report_of_an_import_under_way(
    town: Town, monkeypatch: pytest.MonkeyPatch, *, stored: bool, lost: bool
) -> None:
    """The erasure comes by after the file was read, right before its report is stored or right after; and who stored it may not
    come to know of it."""
    tenant, put = await town.penguin.tenants.onboard("Acme"), blobs.put_file

    async def put_meanwhile(*args: Any) -> None:
        monkeypatch.setattr("penguin_orchestrator.sagas.leads.put_file", put)
        if stored:
            await put(*args)
        await town.penguin.subjects.erase(tenant, ADDRESS)
        if not stored:
            await put(*args)
        if lost:
            raise TierError("content", grpc.StatusCode.UNAVAILABLE, "UNREACHABLE", "the answer was lost")

    monkeypatch.setattr("penguin_orchestrator.sagas.leads.put_file", put_meanwhile)
    rows = f"email,first_name\n{ADDRESS},Ada\n{ADDRESS},Ada again\nnobody {ADDRESS},Ada\n"
    imported = await town.penguin.leads.import_file(tenant, rows.encode(), "imported")
    # Bytes that nothing refers to go when nobody may claim them any more.
    assert columns(await lives.found(town, "content")) <= {"blobs.data"}
    told = await town.penguin.leads.report(tenant, imported.saga_id)
    assert b"FILE_GONE" in told
    assert ADDRESS.lower().encode() not in told.lower()


async def test_what_was_read_of_a_file_before_it_went_is_not_stored_at_all(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The erasure comes by between the reading of the file and the look whether it still is."""
    tenant, read, put, stored = await town.penguin.tenants.onboard("Acme"), leads._told, blobs.put_file, list[bytes]()

    async def read_before(deed: Deed) -> Report:
        monkeypatch.setattr(leads, "_told", read)
        report = await read(deed)
        await town.penguin.subjects.erase(tenant, ADDRESS)
        return report

    async def put_file(*args: Any) -> None:
        stored.append(args[4].data)
        await put(*args)

    monkeypatch.setattr(leads, "_told", read_before)
    monkeypatch.setattr(leads, "put_file", put_file)
    rows = f"email,first_name\n{ADDRESS},Ada\nnobody {ADDRESS},Ada\n"
    imported = await town.penguin.leads.import_file(tenant, rows.encode(), "imported")
    (told,) = stored
    assert told == await town.penguin.leads.report(tenant, imported.saga_id)
    assert b"FILE_GONE" in told
    assert ADDRESS.lower().encode() not in told.lower()


async def test_a_letter_that_comes_while_its_writer_is_erased_leaves_nothing_in_content(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await town.penguin.tenants.onboard("Acme")
    here = town.tiers["notifications"]
    came: list[Any] = []
    inner = here.call

    async def call(method: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, erasure_pb2.EraseSubjectRequest) and not came:
            # What is theirs has been collected by now, and OLTP's own part comes after this tier's.
            came.append(await town.penguin.inbox.run(tenant, lives.MAILBOX, [Source("letter", lives.LETTER.encode())]))
        return await inner(method, request, **more)

    monkeypatch.setattr(here, "call", call)
    await town.penguin.subjects.erase(tenant, ADDRESS)
    assert came
    await lives.deliver(town)
    assert [found for tier in TIERS for found in await lives.found(town, tier)] == []
