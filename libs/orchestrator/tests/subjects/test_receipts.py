"""Receipts of erasures held against the ledger: none can be changed, taken away or made up unseen, and none that was given is taken
for forged, whatever was restored and replayed."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from libs.orchestrator.tests.subjects.conftest import Town
from libs.orchestrator.tests.subjects.test_replaying import ADA, BOB, put_back, retried, written_to

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin_orchestrator.erasure_ledger import ERASE, ERASED, RECEIPTS, Entry, ErasureLedger, ended
from penguin_orchestrator.erasure_receipts import digest
from penguin_orchestrator.sagas.carrying import SagaStuckError

pytestmark = pytest.mark.timeout(120)

GIVEN = {
    "counts": """UPDATE erasure_receipts SET counts = '{"content_objects": 7}' WHERE tier = 'content'""",
    "time": "UPDATE erasure_receipts SET erased_at = erased_at - interval '1 day' WHERE tier = 'queue'",
    "mentions": """UPDATE erasure_receipts SET mentions = '[["leads", "x", "email"]]', mentioned = 1 WHERE tier = 'oltp'""",
    "a tier's": "DELETE FROM erasure_receipts WHERE tier = 'olap'",
}


def receipts() -> pb.RecordErasureRequest:
    """Of two tiers, one of which was skipped, and what one mentions."""
    common: dict[str, Any] = {"erasure_id": str(UUID(int=1)), "subject": "5" * 64, "chain_head": "6" * 64}
    at = Timestamp(seconds=1_772_366_400, nanos=123_456_000)
    return pb.RecordErasureRequest(
        receipts=[
            tier_pb.ErasureReceipt(tier="oltp", counts={"leads": 1, "emails": 2}, erased_at=at, **common),
            tier_pb.ErasureReceipt(tier="queue", skipped_by="ann", **common),
        ],
        mentions=[
            pb.TierMentions(tier="oltp", mentions=[tier_pb.Mention(table="leads", key="k", place="p")], total=3),
            pb.TierMentions(tier="queue"),
        ],
    )  # fmt: skip


def test_what_is_read_has_the_digest_of_what_was_recorded() -> None:
    told = receipts()
    read = pb.Erasure(receipts=reversed(told.receipts), mentions=told.mentions[:1])
    read.receipts[0].erased_at.GetCurrentTime()  # OLTP's, of what was skipped
    assert digest(read) == digest(told)


def test_there_is_nothing_in_a_receipt_that_could_be_changed_unseen() -> None:
    given = digest(receipts())
    changes: list[Any] = [
        lambda told, name=name: setattr(told.receipts[0], name, "other")
        for name in ("tier", "erasure_id", "subject", "chain_head", "skipped_by")
    ]
    changes += [
        lambda told: told.receipts[0].counts.update({"leads": 2}),
        lambda told: setattr(told.receipts[0].erased_at, "nanos", 123_457_000),
        lambda told: setattr(told.receipts[1], "skipped_by", ""),
        lambda told: setattr(told.mentions[0], "total", 4),
        lambda told: setattr(told.mentions[0].mentions[0], "key", "l"),
        lambda told: told.receipts.pop(),
    ]
    digests = {given}
    for change in changes:
        told = receipts()
        change(told)
        digests.add(digest(told))
    assert len(digests) == len(changes) + 1
    # All fields of the messages are among those: a new one has to be bound, too.
    fields = {
        field.name for message in (tier_pb.ErasureReceipt, tier_pb.Mention) for field in message.DESCRIPTOR.fields
    }
    assert fields == {
        "tier", "erasure_id", "subject", "counts", "chain_head", "erased_at", "skipped_by", "table", "key", "place",
    }  # fmt: skip


async def changed(town: Town, *statements: str) -> None:
    """Somebody with OLTP's database in hand has it say otherwise."""
    connection = await town.superuser("oltp")
    for statement in statements:
        assert (await connection.execute(statement)) not in {"UPDATE 0", "DELETE 0", "INSERT 0 0"}
    await connection.close()


@pytest.mark.parametrize("statement", GIVEN.values(), ids=GIVEN)
async def test_receipts_that_were_changed_are_found_out(town: Town, statement: str) -> None:
    tenant = await written_to(town, ADA, BOB)
    subjects = town.penguin.subjects
    erased = await subjects.erase(tenant, ADA)
    await subjects.erase(tenant, BOB)
    assert await subjects.verify(tenant) == []
    await changed(town, statement)
    # Of both: the statement names nobody.
    said = f"{erased.id}: the receipts are not those that were given"
    found = await subjects.verify(tenant)
    assert said in found
    assert len([each for each in found if each.endswith("not those that were given")]) == 2
    await changed(town, "DELETE FROM erasure_receipts", "DELETE FROM erasures")
    assert f"{erased.id}: ordered, and without receipts" in await subjects.verify(tenant)


async def test_receipts_of_what_was_not_carried_out_are_found_out(town: Town) -> None:
    tenant = await written_to(town, ADA)
    subjects = town.penguin.subjects
    await subjects.erase(tenant, ADA)
    order = subjects.ledger.append(
        Entry(ERASE, uuid4(), tenant, subjects.ledger.subject(tenant, BOB), subjects.ledger.entries()[0].at, BOB)
    )
    await changed(
        town,
        f"INSERT INTO erasures SELECT tenant_id, '{order.erasure_id}', '{order.subject}', recorded_at FROM erasures",
        "INSERT INTO erasure_receipts (tenant_id, erasure_id, tier, counts, chain_head, erased_at, mentions, mentioned)"
        f" SELECT tenant_id, '{order.erasure_id}', tier, counts, '{order.digest}', erased_at, mentions, mentioned"
        " FROM erasure_receipts",
    )
    assert await subjects.verify(tenant) == [
        f"{order.erasure_id}: receipts of what the ledger does not say was carried out"
    ]


async def test_receipts_that_a_replay_gives_in_place_of_others_agree_with_the_ledger(town: Town) -> None:
    tenant = await written_to(town, ADA, BOB)
    subjects = town.penguin.subjects
    first = await subjects.erase(tenant, ADA)
    backup = town.back_up("oltp")
    await town.penguin.subjects.mark_restored("content")
    assert (await town.penguin.subjects.replay()).kept == {}
    (second,) = [each async for each in subjects.erasures(tenant)]
    assert digest(second) != digest(first), "nothing was rewritten: nothing would be shown by their agreeing"
    assert subjects.ledger.bound() == {UUID(first.id): [digest(first), digest(second)]}
    assert await subjects.verify(tenant) == []
    # OLTP is put back to the first ones, which were given as well; a hold keeps the replay from giving others.
    await subjects.hold(tenant, "Case 7", address=ADA)
    assert (await put_back(town, {"oltp": backup})).kept == {first.id: "LEGAL_HOLD"}
    assert [digest(each) async for each in subjects.erasures(tenant)] == [digest(first)]
    assert await subjects.verify(tenant) == []


async def test_receipts_that_went_with_a_restore_are_given_anew(town: Town) -> None:
    tenant = await written_to(town, ADA)
    backup = town.back_up("oltp")
    erased = await town.penguin.subjects.erase(tenant, ADA)
    assert (await put_back(town, {"oltp": backup})).kept == {}
    assert await town.penguin.subjects.verify(tenant) == []
    assert len(town.penguin.subjects.ledger.bound()[UUID(erased.id)]) == 2


async def test_receipts_that_oltp_did_not_take_at_first_are_bound_once(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has their digest before OLTP has them, and those of the second try have the same."""
    tenant, oltp = await written_to(town, ADA), town.tiers["oltp"]
    inner = oltp.call

    async def refusing(method: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, pb.RecordErasureRequest):
            raise ValueError("a defect")
        return await inner(method, request, **more)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(oltp, "call", refusing)
        with pytest.raises(SagaStuckError):
            await town.penguin.subjects.erase(tenant, ADA)
    ((erasure_id, bound),) = town.penguin.subjects.ledger.bound().items()
    assert len(bound) == 1
    assert await town.penguin.subjects.verify(tenant) == [f"{erasure_id}: ordered, and without receipts"]
    await retried(town, tenant)
    assert await town.penguin.subjects.verify(tenant) == []
    assert town.penguin.subjects.ledger.bound() == {erasure_id: bound}


async def test_receipts_from_before_the_ledger_kept_digests_are_told_and_are_no_fault(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await written_to(town, ADA, BOB)
    with monkeypatch.context() as before:
        before.setattr(ErasureLedger, "carried_out", lambda self, order, _: self.append(ended(order, ERASED)))
        erased = await town.penguin.subjects.erase(tenant, ADA)
    unbound: list[str] = []
    subjects, backup = town.penguin.subjects, town.back_up("oltp")
    assert subjects.ledger.bound() == {UUID(erased.id): [""]}
    assert await subjects.verify(tenant, unbound=unbound.append) == []
    assert unbound == [erased.id]
    await subjects.erase(tenant, BOB)
    assert await subjects.verify(tenant) == []
    # A replay binds what it gives.
    assert (await town.penguin.subjects.replay()).kept == {}
    unbound.clear()
    assert await subjects.verify(tenant, unbound=unbound.append) == []
    assert unbound == []
    kinds = [e.kind for e in town.penguin.subjects.ledger.entries() if e.kind in {ERASED, RECEIPTS}]
    assert kinds == [ERASED, ERASED, RECEIPTS, RECEIPTS]
    # OLTP is put back to those from before, and a hold keeps the replay from giving others: they were given all the same.
    await town.penguin.subjects.hold(tenant, "Case 7", address=ADA)
    assert erased.id in (await put_back(town, {"oltp": backup})).kept
    assert await town.penguin.subjects.verify(tenant, unbound=unbound.append) == []
    assert unbound == [erased.id]
