"""Restores and what goes wrong around them: erasures half done, refused, stuck. Nobody comes back with a backup, and nobody's
case keeps a tier shut for all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import grpc
import pytest
from libs.orchestrator.tests.subjects import lives
from libs.orchestrator.tests.subjects.conftest import Town
from libs.orchestrator.tests.subjects.lives import MAILBOX

from penguin.oltp.v1 import inbox_service_pb2 as inbox_pb
from penguin.oltp.v1 import saga_service_pb2 as saga_pb
from penguin.oltp.v1.inbox_service_pb2_grpc import InboxServiceStub
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin.tier.v1 import erasure_pb2
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.erasure_ledger import LedgerError
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.ledger_marks import look, look_at_all
from penguin_orchestrator.mailsources import Source
from penguin_orchestrator.messages import OutgoingEmail, Refusal
from penguin_orchestrator.replaying import Replayed
from penguin_orchestrator.sagas.carrying import SagaStuckError, SagaUnfinishedError
from penguin_orchestrator.sagas.definition import ACTION

pytestmark = pytest.mark.timeout(120)

ADA = "ada@example.com"
BOB = "bob@example.com"


class KilledError(Exception):
    """The process that replays was ended."""


async def written_to(town: Town, *addresses: str) -> UUID:
    """A tenant who has written to these people."""
    tenant = await town.penguin.tenants.onboard("Acme")
    emails = [OutgoingEmail(each, MAILBOX, "Hi", text=f"Dear {each}") for each in addresses]
    await town.penguin.send_emails(tenant, emails)
    return tenant


async def content_stands(town: Town, key: str) -> bool:
    connection = await town.superuser("content")
    try:
        return bool(await connection.fetchval("SELECT count(*) FROM content_objects WHERE storage_key = $1", key))
    finally:
        await connection.close()


async def contents(town: Town) -> int:
    connection = await town.superuser("content")
    try:
        return int(await connection.fetchval("SELECT count(*) FROM content_objects"))
    finally:
        await connection.close()


def failing(
    town: Town, monkeypatch: pytest.MonkeyPatch, tier: str, code: grpc.StatusCode, reason: str, of: UUID | None = None
) -> None:
    """Have a tier erase nobody, or nobody of one tenant's."""
    here = town.tiers[tier]
    inner = here.call

    async def call(method: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, erasure_pb2.EraseSubjectRequest) and request.tenant_id == str(of or request.tenant_id):
            raise TierError(tier, code, reason, "")
        return await inner(method, request, **more)

    monkeypatch.setattr(here, "call", call)


async def test_what_an_unfinished_erasure_did_before_the_restore_is_done_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await written_to(town, ADA)
    backup, penguin = town.back_up("content"), town.penguin
    with monkeypatch.context() as away:
        failing(town, away, "notifications", grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN")
        away.setitem(penguin.sagas.carry_out.__func__.__kwdefaults__, "patience_s", 0.5)  # type: ignore[attr-defined]
        with pytest.raises(SagaUnfinishedError):
            await penguin.subjects.erase(tenant, ADA)
    assert await contents(town) == 0
    await town.restore("content", backup)
    assert await contents(town) == 1
    await town.penguin.subjects.mark_restored("content")
    replayed = await town.penguin.subjects.replay()
    assert (replayed.erased, replayed.ready) == (1, ["content"])
    assert await contents(town) == 0


async def test_a_replay_is_called_again_after_a_hold_refused_one_of_it(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await written_to(town, ADA, BOB)
    subjects = town.penguin.subjects
    erasure = await subjects.erase(tenant, ADA)
    hold = await subjects.hold(tenant, "Case 7", address=ADA)
    await subjects.mark_restored("olap")

    def killed(_: Replayed) -> None:
        raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            await town.penguin.subjects.replay(progress=killed)
    again = await town.penguin.subjects.replay()
    assert (again.kept, again.ready) == ({erasure.id: "LEGAL_HOLD"}, ["olap"])
    await subjects.release(tenant, hold)
    await subjects.mark_restored("olap")
    # Another's erasure ends in the meantime, of which tiers are told more than the replay had read.
    olap = town.tiers["olap"]
    insist = olap.insist

    async def marking(method: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, erasure_pb2.MarkReplayedRequest):
            await town.penguin.subjects.erase(tenant, BOB)
        return await insist(method, request, **more)

    monkeypatch.setattr(olap, "insist", marking)
    released = await town.penguin.subjects.replay()
    assert (released.erased, released.kept, released.ready) == (1, {}, ["olap"])
    assert await subjects.restoring() == {}, "a tier is taken for put back"


@pytest.mark.parametrize("tier", ["content", "oltp"])
async def test_a_hold_that_was_released_before_the_erasure_brings_nobody_back(town: Town, tier: str) -> None:
    tenant = await written_to(town, ADA, BOB)
    subjects = town.penguin.subjects
    hold = await subjects.hold(tenant, "Case 7", address=ADA)
    of_bob = await subjects.hold(tenant, "Case 8", address=BOB)
    await lives.deliver(town)
    backup = town.back_up(tier)
    await subjects.release(tenant, hold)
    await subjects.erase(tenant, ADA)
    await town.restore(tier, backup)
    await subjects.mark_restored(tier)
    replayed = await town.penguin.subjects.replay()
    assert (replayed.erased, replayed.kept, replayed.ready) == (1, {}, [tier])
    told = [(each.tier, each.table) async for each in town.penguin.subjects.tell(tenant, ADA) if each.table]
    assert told == []
    assert {each.id async for each in subjects.holds(tier, tenant)} == {str(of_bob)}, "another's stands"
    (refused,) = await town.penguin.send_emails(tenant, [OutgoingEmail(ADA, MAILBOX, "Hi", text="Once more")])
    assert isinstance(refused, Refusal)


async def corresponded(town: Town, *texts: str) -> tuple[UUID, dict[str, inbox_pb.InboxMessage]]:
    """A tenant who has written to Bob and had such letters, which are told by their sender."""
    tenant, oltp = await written_to(town, BOB), town.tiers["oltp"]
    await town.penguin.inbox.run(tenant, MAILBOX, [Source(text, text.encode()) for text in texts])
    await lives.deliver(town)
    request = inbox_pb.ListInboxMessagesRequest(tenant_id=str(tenant))
    listed = await oltp.call(oltp.stub(InboxServiceStub).ListInboxMessages, request)
    return tenant, {each.sender: each for each in listed.inbox_messages}


async def deleted(town: Town, tenant: UUID, letter: inbox_pb.InboxMessage) -> None:
    """The tenant deletes a letter, and Content what stood there of it."""
    oltp, request_id = town.tiers["oltp"], str(uuid4())
    request = inbox_pb.DeleteInboxMessagesRequest(
        tenant_id=str(tenant), request_id=request_id, inbox_message_ids=[letter.id]
    )
    await oltp.call(oltp.stub(InboxServiceStub).DeleteInboxMessages, request)
    await lives.deliver(town)


async def put_back(town: Town, backups: dict[str, Path]) -> Replayed:
    """Restore tiers, and replay the ledger into them."""
    for tier, backup in backups.items():
        await town.restore(tier, backup)
        await town.penguin.subjects.mark_restored(tier)
    return await town.penguin.subjects.replay()


HERS = f"From: {ADA}\r\nMessage-ID: <a@x.example>\r\n\r\nYours, {ADA}"
ABOUT_HER = f"From: {BOB}\r\nMessage-ID: <b@x.example>\r\n\r\nAsk {ADA}"


@pytest.mark.parametrize("held", [False, True])
async def test_a_letter_that_was_deleted_before_the_erasure_does_not_come_back(town: Town, *, held: bool) -> None:
    tenant, letters = await corresponded(town, HERS, ABOUT_HER)
    subjects, key = town.penguin.subjects, letters[ADA].content_storage_key
    hold = await subjects.hold(tenant, "Case 7", key=key) if held else None
    backup = town.back_up("content")
    if hold is not None:
        await subjects.release(tenant, hold)
    await deleted(town, tenant, letters[ADA])
    await subjects.erase(tenant, ADA)
    replayed = await put_back(town, {"content": backup})
    assert (replayed.erased, replayed.kept) == (1, {})
    # Bob has his: what the tenant wrote to him, and what he wrote. A hold that is back keeps hers until it is released.
    assert await contents(town) == (3 if held else 2)
    assert await content_stands(town, key) is held
    assert await content_stands(town, letters[BOB].content_storage_key)


async def test_what_oltp_has_forgotten_of_others_is_not_taken_for_deleted(town: Town) -> None:
    tenant, letters = await corresponded(town, HERS)
    backups = {"oltp": town.back_up("oltp")}
    await town.penguin.inbox.run(tenant, MAILBOX, [Source("about her", ABOUT_HER.encode())])
    await lives.deliver(town)
    backups["content"] = town.back_up("content")
    await town.penguin.subjects.erase(tenant, ADA)
    assert (await put_back(town, backups)).kept == {}
    assert not await content_stands(town, letters[ADA].content_storage_key)
    # The email to Bob, and his letter: it is told of, and reconcile's to put aside for its grace.
    assert await contents(town) == 2


async def test_a_stuck_erasure_keeps_no_tier_shut(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant, other = await written_to(town, ADA), await written_to(town, BOB)
    backup = town.back_up("content")
    await town.penguin.subjects.erase(other, BOB)
    refused = await town.penguin.subjects.erase(tenant, ADA)
    await town.restore("content", backup)

    def served() -> Any:
        here = town.tiers["content"]
        return here.call(here.stub(TierServiceStub).CountSubjectRows, rows)

    rows = erasure_pb2.CountSubjectRowsRequest(tenant_id=str(other), address=BOB)
    with monkeypatch.context() as refusing:
        failing(town, refusing, "content", grpc.StatusCode.FAILED_PRECONDITION, "CONFLICT", of=tenant)
        replayed = await town.penguin.subjects.replay()
    assert (replayed.erased, replayed.ready, replayed.refused) == (1, ["content"], {tenant})
    assert "is stuck" in replayed.kept[refused.id]
    await served()
    # The tenant's own is refused until it is replayed: the person is there still.
    rows.tenant_id = str(tenant)
    with pytest.raises(TierError) as shut:
        await served()
    assert shut.value.reason == "RESTORE_NOT_REPLAYED"
    assert list(await town.penguin.subjects.restoring()) == ["content"]
    again = await town.penguin.subjects.replay()
    assert (again.ready, again.refused) == (["content"], {tenant}), "nobody has decided yet"
    await retried(town, tenant)
    done = await town.penguin.subjects.replay()
    assert (done.erased, done.kept, done.refused) == (2, {}, set())
    await served()
    assert await contents(town) == 0


async def retried(town: Town, tenant: UUID) -> None:
    """An operator has the stuck sagas of a tenant tried again."""
    oltp = town.tiers["oltp"]
    service = oltp.stub(SagaServiceStub)
    listed = saga_pb.ListSagasRequest(tenant_id=str(tenant), state=saga_pb.SAGA_STATE_STUCK)
    for saga in (await oltp.call(service.ListSagas, listed)).sagas:
        request = saga_pb.RetrySagaRequest(
            tenant_id=str(tenant), request_id=str(uuid4()), saga_id=saga.id, reason="Mended"
        )
        await oltp.call(service.RetrySaga, request)
        await town.penguin.sagas.join(saga.kind, tenant, UUID(saga.id))


async def test_an_erasure_stuck_by_a_hold_keeps_no_tier_shut(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant, other = await written_to(town, ADA), await written_to(town, BOB)
    with monkeypatch.context() as refusing:
        failing(town, refusing, "notifications", grpc.StatusCode.FAILED_PRECONDITION, "LEGAL_HOLD")
        for _ in range(2):
            with pytest.raises(SagaStuckError):
                await town.penguin.subjects.erase(tenant, ADA)
    assert len(town.penguin.subjects.ledger.orders()) == 1, "who joins it orders no other"
    await town.penguin.subjects.erase(other, BOB)
    await town.penguin.subjects.mark_restored("olap")
    replayed = await town.penguin.subjects.replay()
    assert (replayed.erased, replayed.kept, replayed.ready) == (2, {}, ["olap"])


@pytest.mark.parametrize("by", ["key", "person"])
async def test_a_letter_that_is_held_while_its_person_is_erased_stays_until_it_is_released(
    town: Town, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """It came after the keys were collected, so no tier is asked about it before OLTP's part, which alone knows it."""
    tenant, oltp, subjects = await written_to(town, ADA, BOB), town.tiers["oltp"], town.penguin.subjects
    inner, holds = oltp.call, list[UUID]()

    async def letters() -> list[inbox_pb.InboxMessage]:
        request = inbox_pb.ListInboxMessagesRequest(tenant_id=str(tenant))
        return list((await inner(oltp.stub(InboxServiceStub).ListInboxMessages, request)).inbox_messages)

    async def call(method: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, erasure_pb2.EraseSubjectRequest) and not holds:
            await town.penguin.inbox.run(tenant, MAILBOX, [Source("letter", HERS.encode())])
            await lives.deliver(town)
            (letter,) = await letters()
            on = {"key": letter.content_storage_key} if by == "key" else {"address": ADA}
            holds.append(await subjects.hold(tenant, "Case 9", **on))
        return await inner(method, request, **more)

    monkeypatch.setattr(oltp, "call", call)
    with pytest.raises(SagaStuckError) as stuck:
        await subjects.erase(tenant, ADA)
    assert stuck.value.held.records["oltp", ACTION].last_error.endswith("LEGAL_HOLD")
    await lives.deliver(town)
    (letter,) = await letters()
    assert await content_stands(town, letter.content_storage_key)
    assert [each.id async for each in subjects.holds("oltp", tenant)] == [str(holds[0])]
    assert [each async for each in subjects.erasures(tenant)] == [], "receipts of what was not done"
    (order,) = [each.erasure_id for each, _ in subjects.ledger.orders()]
    assert await subjects.verify(tenant) == [f"{order}: ordered, and without receipts"]

    await subjects.release(tenant, holds[0])
    await retried(town, tenant)
    await lives.deliver(town)
    assert await letters() == []
    assert {tier: await lives.found(town, tier, ADA) for tier in town.tiers} == {tier: [] for tier in town.tiers}
    (erasure,) = [each async for each in subjects.erasures(tenant)]
    counts = {receipt.tier: dict(receipt.counts) for receipt in erasure.receipts}
    assert counts["oltp"]["inbox_message_refs"] == 1
    assert await subjects.verify(tenant) == []
    assert await contents(town) == 1, "Bob's"


async def test_a_ledger_that_lacks_what_was_erased_lets_no_tier_in(town: Town) -> None:
    tenant = await written_to(town, ADA, BOB)
    backup = town.back_up("content")
    await town.penguin.subjects.erase(tenant, BOB)
    kept = len(town.penguin.subjects.ledger.entries())
    await town.penguin.subjects.erase(tenant, ADA)
    await town.restore("content", backup)
    await town.penguin.subjects.mark_restored("content")
    for left in (kept, 0):
        for folder in town.ledger_paths[:2]:
            for path in sorted(folder.glob("*.erasure"))[left:]:
                path.unlink()
        with pytest.raises(LedgerError, match="which oltp was told of"):
            await town.penguin.subjects.replay()
    # Nor is anything ordered by it, for tiers to be told of.
    with pytest.raises(LedgerError, match="which oltp was told of"):
        await town.penguin.subjects.erase(tenant, "eve@example.com")
    assert town.penguin.subjects.ledger.orders() == []
    await forget_marks(town, *town.tiers)
    with pytest.raises(LedgerError, match="receipts"):
        await town.penguin.subjects.replay()
    assert await contents(town) == 2
    connection = await town.superuser("content")
    assert await connection.fetchval("SELECT id <> replayed FROM incarnation")
    await connection.close()


async def forget_marks(town: Town, *tiers: str) -> None:
    """As before the first erasure, or after one by a version that told tiers of no ledger."""
    for tier in tiers:
        connection = await town.superuser(tier)
        await connection.execute("UPDATE incarnation SET ledger_sequence = 0, ledger_head = ''")
        await connection.close()


async def test_a_database_that_was_put_back_is_found_out_whoever_forgets_to_say_so(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = await written_to(town, ADA)
    backup = town.back_up("content")
    subjects = town.penguin.subjects
    await subjects.erase(tenant, ADA)
    # Made anew from a dump: not one call is answered.
    await town.restore("content", backup)
    here = town.tiers["content"]
    rows = erasure_pb2.CountSubjectRowsRequest(tenant_id=str(tenant), address=ADA)
    with pytest.raises(TierError) as shut:
        await here.call(here.stub(TierServiceStub).CountSubjectRows, rows)
    assert shut.value.reason == "RESTORE_NOT_REPLAYED"
    assert (await town.penguin.subjects.replay()).ready == ["content"]
    assert await contents(town) == 0
    # In its place, as a snapshot of a disk is, which the relay finds, and says once; what is away is asked again.
    assert await look(town.tiers["olap"], subjects.ledger) is False
    await forget_marks(town, "olap")
    told: dict[str, str] = {}
    with monkeypatch.context() as away:
        down = TierError("content", grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN", "")
        away.setattr(town.tiers["content"], "call", AsyncMock(side_effect=down))
        for _ in range(3):
            await look_at_all(town.tiers, subjects.ledger, told)
    assert "content" not in told
    said = [each.getMessage() for each in caplog.records if each.name == "penguin_orchestrator.ledger_marks"]
    assert said == ["olap: waits for erasures to be replayed"]
    assert list(await subjects.restoring()) == ["olap"]
    assert (await subjects.replay()).ready == ["olap"]
    assert await subjects.restoring() == {}
