"""A person is exported by a saga: all that is told at once is in its files, a tier that is away is waited for, and neither the
journal nor what an erasure leaves holds anything of theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import orjson
import pytest
from libs.orchestrator.tests.sagas.conftest import unbroken, world
from libs.orchestrator.tests.sagas.scenarios import World
from services.oltp.tests.rows import make_tenant

from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis import interceptors
from penguin_chassis.calls import Call
from penguin_orchestrator import blobs
from penguin_orchestrator.erasure_ledger import ErasureLedger
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas import engine as engines
from penguin_orchestrator.sagas import exports, files
from penguin_orchestrator.sagas.carrying import SagaStuckError, SagaUnfinishedError
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import ACTION
from penguin_orchestrator.sagas.exports import Exported
from penguin_orchestrator.sagas.known import KNOWN
from penguin_orchestrator.sagas.recovery import Recovery
from penguin_orchestrator.sagas.subjects import FILES

__all__ = ["unbroken", "world"]

ADDRESS = "Ada@Example.com"
ATTACHED = "SELECT count(*) FROM attachments WHERE tenant_id = $1"


@pytest.fixture
async def penguin(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Penguin:
    """The platform with a ledger."""
    monkeypatch.setattr(engines, "RETRY_MIN_S", 0.001)
    await world.know_no_ledger()
    return Penguin(world.tiers, ErasureLedger(tmp_path / "ledger", tmp_path / "copy", b"k" * 32))


@pytest.fixture
async def tenant(world: World, penguin: Penguin) -> UUID:
    """One that has written to her, and to somebody else. Her address stands in no body."""
    tenant = await make_tenant(world.dbs["oltp"])
    emails = [OutgoingEmail(each, "us@sender.example", "Hi", text="Dear") for each in (ADDRESS, "bob@example.com")]
    await penguin.send_emails(tenant, emails)
    return tenant


def test_who_is_erased_is_looked_for_in_the_files_of_every_saga_that_makes_any() -> None:
    assert {each.kind for each in KNOWN if any(step.mints for step in each.steps)} == set(FILES)


async def told(records: AsyncIterator[Exported]) -> list[tuple[str, str, str, str]]:
    return [(each.tier, each.table, each.key, each.missing) async for each in records]


def away() -> TierError:
    return TierError("notifications", grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN", "away")


async def test_what_is_exported_is_what_is_told_and_who_had_it_is_on_record(
    world: World, penguin: Penguin, tenant: UUID
) -> None:
    subjects = penguin.subjects
    export_id = await subjects.export(tenant, ADDRESS)
    found = [each async for each in subjects.exported(tenant, export_id)]
    at_once = [each async for each in subjects.tell(tenant, ADDRESS)]
    assert [(each.tier, each.table) for each in found] == [("oltp", "emails"), ("content", "content_objects")]
    assert [orjson.loads(each.line()) for each in found] == [orjson.loads(each.line()) for each in at_once]
    on_record = [each async for each in subjects.exports(tenant, ADDRESS)]
    assert on_record[0].id == str(export_id)
    assert {each.subject for each in on_record} == {subjects.ledger.subject(tenant, ADDRESS)}
    assert len(on_record) == 2, "who was told at once is on record as well"
    assert all(each.actor for each in on_record)
    assert [each async for each in subjects.exports(tenant, "bob@example.com")] == []
    await subjects.drop_export(tenant, export_id)
    assert await world.count("content", tenant, ATTACHED) == 0
    assert {each.missing async for each in subjects.exported(tenant, export_id)} == {"NOT_FOUND NOT_FOUND"}


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports whose stream's time is over after their first message."""
    until = interceptors._until

    async def first(replies: AsyncIterator[Any], call: Call, cut_off: Callable[[], None]) -> AsyncIterator[Any]:
        async for reply in until(replies, call, cut_off):
            yield reply
            if call.method.endswith("/ExportSubject") and reply.table:
                return

    monkeypatch.setattr(interceptors, "_until", first)


@pytest.mark.usefixtures("cut_short")
async def test_what_is_cut_short_is_said_to_be(world: World, penguin: Penguin, tenant: UUID) -> None:
    cut = "DATA_LOSS CUT_SHORT"
    at_once = await told(penguin.subjects.tell(tenant, ADDRESS))
    assert [(tier, missing) for tier, _, _, missing in at_once] == [
        ("oltp", ""), ("oltp", cut), ("content", ""), ("content", cut),
    ]  # fmt: skip
    # An export with a part missing is no export: somebody is called.
    with pytest.raises(SagaStuckError) as stuck:
        await penguin.subjects.export(tenant, ADDRESS)
    failed = {step: record.last_error for (step, _), record in stuck.value.held.records.items() if record.last_error}
    assert set(failed) == {"oltp", "content"}
    assert all("CUT_SHORT" in error for error in failed.values())


async def test_nothing_is_told_that_is_not_on_record(world: World, penguin: Penguin, tenant: UUID) -> None:
    world.probe.refuses = "RecordExport"
    for work in (penguin.subjects.export(tenant, ADDRESS), told(penguin.subjects.tell(tenant, ADDRESS))):
        with pytest.raises(TierError, match="refused by a test"):
            await work
    assert await world.count("content", tenant, ATTACHED) == 0
    assert await world.count("oltp", tenant, "SELECT count(*) FROM sagas WHERE tenant_id = $1") == 0


async def test_what_is_no_address_is_refused_and_leaves_no_order(world: World, penguin: Penguin, tenant: UUID) -> None:
    with pytest.raises(TierError) as refused:
        await penguin.subjects.export(tenant, "ada")
    assert (refused.value.code, refused.value.field) == (grpc.StatusCode.INVALID_ARGUMENT, "address")
    assert await world.count("content", tenant, ATTACHED) == 0


async def test_a_tier_that_is_away_is_waited_for_by_whichever_process(
    world: World, penguin: Penguin, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, begun = exports.records, list[UUID]()

    async def without_one(tiers: Any, tier: str, *more: Any) -> AsyncIterator[Exported]:
        if tier == "notifications":
            raise away()
        async for record in records(tiers, tier, *more):
            yield record

    monkeypatch.setattr(exports, "records", without_one)
    with pytest.raises(SagaUnfinishedError):
        await penguin.subjects.export(tenant, ADDRESS, begun=begun.append, patience_s=0.05)
    (export_id,) = begun
    with pytest.raises(SagaUnfinishedError):
        await told(penguin.subjects.exported(tenant, export_id))
    monkeypatch.setattr(exports, "records", records)
    await world.rows("oltp", tenant, "UPDATE sagas SET due_at = now() WHERE tenant_id = $1")
    await Recovery(Penguin(world.tiers).sagas.engine).turn()
    found = await told(penguin.subjects.exported(tenant, export_id))
    assert [(tier, table) for tier, table, _, _ in found] == [("oltp", "emails"), ("content", "content_objects")]


async def test_a_closed_tenants_people_are_told_too(world: World, penguin: Penguin, tenant: UUID) -> None:
    for tier in world.tiers.values():
        request = tier_pb.CloseTenantRequest(tenant_id=str(tenant), request_id=str(uuid4()))
        await tier.call(tier.stub(TierServiceStub).CloseTenant, request)
    export_id = await penguin.subjects.export(tenant, ADDRESS)
    assert len(await told(penguin.subjects.exported(tenant, export_id))) == 2
    await penguin.subjects.drop_export(tenant, export_id)
    assert await world.count("content", tenant, ATTACHED) == 0


async def test_more_than_a_file_takes_is_told_at_once_and_said_to_be_missing(
    penguin: Penguin, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "FILE_BYTES", 10)
    export_id = await penguin.subjects.export(tenant, ADDRESS)
    found = await told(penguin.subjects.exported(tenant, export_id))
    assert found == [(tier, "", "", "TOO_LARGE") for tier in ("oltp", "content")]


async def test_lists_that_no_saga_tells_of_any_more_are_erased_too(
    world: World, penguin: Penguin, tenant: UUID
) -> None:
    rows = f"email,first_name\nnobody {ADDRESS},Ada\nbob@example.com,Bob\n".encode()
    assert (await penguin.leads.import_file(tenant, rows, "l")).left_out == 1
    # Its journal has had its time; and of another file the caller died before there was a saga.
    await world.rows("oltp", tenant, "DELETE FROM sagas WHERE tenant_id = $1")
    file = blobs.File("people.csv", "text/csv", rows)
    await blobs.put_file(world.tiers["content"], tenant, "k/left", str(uuid4()), file, timedelta(days=30))
    assert await world.count("content", tenant, ATTACHED) == 2
    await penguin.subjects.erase(tenant, ADDRESS)
    assert await world.count("content", tenant, ATTACHED) == 0


async def test_a_file_is_dropped_as_often_as_somebody_stores_it(world: World, penguin: Penguin, tenant: UUID) -> None:
    """Another process, which has lost the saga and does not know it yet, may store it once more."""
    deed = Deed(world.tiers, tenant, uuid4(), "oltp", ACTION, {}, {}, {})
    for _ in range(2):
        file = blobs.File("oltp.jsonl", exports.LINES, b"{}\n")
        await blobs.put_file(world.tiers["content"], tenant, "k/again", str(uuid4()), file, timedelta(days=1))
        await files.drop(deed, "k/again")
        assert await world.count("content", tenant, ATTACHED) == 0


async def test_who_is_erased_is_erased_from_exports_those_under_way_included(
    world: World, penguin: Penguin, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched_later = await penguin.subjects.export(tenant, ADDRESS)
    put_file, erased = blobs.put_file, list[str]()

    async def erased_meanwhile(content: Any, tenant_id: UUID, *more: Any, **how: Any) -> None:
        if not erased:
            erased.append(ADDRESS)
            await penguin.subjects.erase(tenant, ADDRESS)
        await put_file(content, tenant_id, *more, **how)

    # It comes by between what an export has read and what it stores.
    monkeypatch.setattr(blobs, "put_file", erased_meanwhile)
    under_way = await penguin.subjects.export(tenant, ADDRESS)
    assert await world.count("content", tenant, ATTACHED) == 0
    missing = {each[3] for each in await told(penguin.subjects.exported(tenant, under_way))}
    assert "ORDER_GONE" in missing
    assert missing <= {"ORDER_GONE", "NOT_FOUND NOT_FOUND"}, "something of hers is told still"
    missing = {each[3] for each in await told(penguin.subjects.exported(tenant, fetched_later))}
    assert missing == {"NOT_FOUND NOT_FOUND"}
    assert await world.count("content", tenant, "SELECT count(*) FROM content_objects WHERE tenant_id = $1") == 1
