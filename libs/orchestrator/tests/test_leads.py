"""Leads from a file over the real tiers: each row once, whoever carries the import and whatever is away meanwhile; what was
left out is told line by line."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import hmac
import io
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.stored import contents, until

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import subject_service_pb2 as subject_pb
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin_chassis.pool import Database
from penguin_orchestrator import clients, keys, leadbatches, leads
from penguin_orchestrator.blobs import File, put_file
from penguin_orchestrator.clients import MESSAGE_LIMIT, Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.leadrecords import LeadFileError
from penguin_orchestrator.leads import ImportedLeads
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas import leads as steps
from penguin_orchestrator.sagas.carrying import SagaUnfinishedError
from penguin_orchestrator.sagas.recovery import Recovery
from penguin_testkit.faults import Break, Code, Faults

CREATE = "BatchCreateLeads"
KEY = b"k" * 32
AWAY = Break(Code.UNAVAILABLE)
UNKNOWN = Break(Code.UNAVAILABLE, acted=True)


@pytest.fixture
def penguin(tiers: dict[str, Tier]) -> Penguin:
    return Penguin(tiers)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough batches for something to go wrong between them."""
    monkeypatch.setattr(steps, "LEADS_PER_CALL", 10)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody rides an outage out; a call that is only slow has its time."""
    monkeypatch.setattr(clients, "RETRY_MIN_S", 60.0)
    monkeypatch.setattr(leads, "DEADLINE_S", 2.0)
    monkeypatch.setattr(leadbatches, "DEADLINE_S", 2.0)


def lines(count: int, *, bad: Sequence[int] = ()) -> bytes:
    """A heading and so many rows; on the lines `bad` what is no address."""
    rows = (f"{'nobody' if n in bad else f'lead{n}@example.com'},Name {n}" for n in range(2, count + 2))
    return "\n".join(["email,first_name", *rows, ""]).encode()


async def stored(db: Database, tenant: UUID, audience: str = "all") -> dict[str, str]:
    """Names by address; fails where an address stands twice."""
    async with db.tenant(tenant) as connection:
        rows = await connection.fetch(
            "SELECT email, first_name FROM leads WHERE tenant_id = $1 AND list = $2", tenant, audience
        )
    found = {row["email"]: row["first_name"] for row in rows}
    assert len(found) == len(rows)
    return found


async def report(penguin: Penguin, tenant: UUID, done: ImportedLeads) -> list[tuple[int, str, str]]:
    read = csv.DictReader(io.StringIO((await penguin.leads.report(tenant, done.saga_id)).decode(), newline=""))
    return [(int(each["line"]), each["field"], each["reason"]) for each in read]


def everybody(count: int, *, but: Sequence[int] = ()) -> dict[str, str]:
    return {f"lead{n}@example.com": f"Name {n}" for n in range(2, count + 2) if n not in but}


async def test_each_row_is_a_lead_or_is_told_of(
    penguin: Penguin, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    begun: list[UUID] = []
    reached: list[tuple[int, int]] = []
    data = lines(95, bad=(7, 50, 96)) + b"Lead2@example.com,Again\n"
    done = await penguin.leads.import_file(
        tenant, data, "all", begun=begun.append, progress=lambda *at: reached.append(at)
    )
    assert await stored(oltp_db, tenant) == everybody(95, but=(7, 50, 96))
    assert done == ImportedLeads(
        begun[0], rows=96, created=92, existed=0, left_out=4, reasons={"BAD_ADDRESS": 3, "DUPLICATE": 1},
        encoding="utf-8",
    )  # fmt: skip
    assert await report(penguin, tenant, done) == [
        (7, "email", "BAD_ADDRESS"), (50, "email", "BAD_ADDRESS"), (96, "email", "BAD_ADDRESS"),
        (97, "email", "DUPLICATE"),
    ]  # fmt: skip
    assert reached[-1] == (95, 97)
    assert reached == sorted(reached)
    # The file is gone; the report stays, until its time is over.
    async with content_db.tenant(tenant) as connection:
        (kept,) = await connection.fetch(
            "SELECT state, generation, claim_by FROM content_objects WHERE tenant_id = $1", tenant
        )
    assert kept["state"] == "unclaimed"
    # No reconcile finds fault with it before.
    assert kept["generation"] == keys.generation(kept["claim_by"].timestamp())


async def test_what_stands_in_the_list_is_counted_and_kept(
    penguin: Penguin, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    await penguin.leads.import_file(tenant, lines(15), "all")
    done = await penguin.leads.import_file(tenant, lines(25), "all")
    assert (done.rows, done.created, done.existed, done.left_out) == (25, 10, 15, 0)
    assert await stored(oltp_db, tenant) == everybody(25)
    other = await penguin.leads.import_file(tenant, lines(25), "others")
    assert (other.created, other.existed) == (25, 0)
    assert await report(penguin, tenant, other) == []
    # Nothing was left out, and nothing is kept.
    assert await contents(content_db, tenant) == {}


async def test_rows_that_are_large_go_in_smaller_batches(
    penguin: Penguin, tenant: UUID, oltp_db: Database, faults: dict[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "LEADS_PER_CALL", 1000)
    columns, rows = 45, 60
    heading = ",".join(["email", *(f"c{n}" for n in range(columns))])
    data = "\n".join(
        [heading, *(f"lead{n}@example.com{',' + 'x' * 2000}{(',' + 'y' * 2000) * (columns - 1)}" for n in range(rows))]
    )
    done = await penguin.leads.import_file(tenant, data.encode(), "all")
    assert (done.created, done.left_out) == (rows, 0)
    assert len(await stored(oltp_db, tenant)) == rows
    sizes = [request.ByteSize() for request in faults["oltp"].requests[CREATE]]
    assert len(sizes) > 1
    assert max(sizes) < MESSAGE_LIMIT


async def test_answers_that_are_lost_make_no_row_twice(
    penguin: Penguin, tenant: UUID, oltp_db: Database, faults: dict[str, Faults]
) -> None:
    faults["oltp"].breaks(CREATE, UNKNOWN, AWAY, UNKNOWN, UNKNOWN)
    faults["content"].breaks("BatchPutContents", UNKNOWN)
    with pytest.raises(TierError):
        await penguin.leads.import_file(tenant, lines(30), "all")  # before anything is begun, it is the caller's
    done = await penguin.leads.import_file(tenant, lines(30), "all")
    assert (done.created, done.existed) == (30, 0)
    assert await stored(oltp_db, tenant) == everybody(30)


async def test_another_process_goes_on_where_the_journal_ends(
    penguin: Penguin, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, faults: dict[str, Faults],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    impatient(monkeypatch)
    monkeypatch.setattr(steps, "PARALLEL", 1)
    begun: list[UUID] = []

    def stop_at_40(line: int, _: int) -> None:
        if line >= 40:
            faults["oltp"].breaks(CREATE, *[AWAY] * 8)

    with pytest.raises(SagaUnfinishedError) as raised:
        await penguin.leads.import_file(tenant, lines(95, bad=(3, 90)), "all", begun=begun.append, progress=stop_at_40)
    assert raised.value.held.id == begun[0]
    with pytest.raises(SagaUnfinishedError):
        await penguin.leads.report(tenant, begun[0])
    before = await stored(oltp_db, tenant)
    assert 30 <= len(before) < 93
    faults["oltp"].heal()
    asked = len(faults["oltp"].requests[CREATE])
    monkeypatch.undo()
    monkeypatch.setattr(steps, "LEADS_PER_CALL", 10)
    done = await Penguin(tiers).leads.resume(tenant, begun[0])
    assert (done.rows, done.created, done.existed, done.left_out) == (95, 93, 0, 2)
    assert await stored(oltp_db, tenant) == everybody(95, but=(3, 90))
    assert [line for line, _, _ in await report(penguin, tenant, done)] == [3, 90]
    # It began where the journal ended.
    again = [lead.email for request in faults["oltp"].requests[CREATE][asked:] for lead in request.leads]
    assert "lead2@example.com" not in again
    assert len(again) == len(set(again))


async def test_an_import_whose_file_was_erased_ends_with_what_it_has_made(
    penguin: Penguin, tenant: UUID, oltp_db: Database, content_db: Database, faults: dict[str, Faults],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    impatient(monkeypatch)
    monkeypatch.setattr(steps, "PARALLEL", 1)
    begun: list[UUID] = []

    def stop_at_40(line: int, _: int) -> None:
        if line >= 40:
            faults["oltp"].breaks(CREATE, *[AWAY] * 8)

    with pytest.raises(SagaUnfinishedError):
        await penguin.leads.import_file(tenant, lines(95), "all", begun=begun.append, progress=stop_at_40)
    before = await stored(oltp_db, tenant)
    assert 30 <= len(before) < 95
    # As the erasure of somebody in it does.
    async with content_db.tenant(tenant) as connection:
        await connection.execute("DELETE FROM content_objects WHERE tenant_id = $1", tenant)
    faults["oltp"].heal()
    monkeypatch.undo()
    done = await penguin.leads.resume(tenant, begun[0])
    assert (done.rows, done.left_out, done.reasons) == (done.created + 1, 1, {"FILE_GONE": 1})
    assert len(before) == done.created == len(await stored(oltp_db, tenant))
    assert await report(penguin, tenant, done) == [(0, "", "FILE_GONE")]


async def test_one_that_is_interrupted_is_anybodys_at_once(
    penguin: Penguin, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database
) -> None:
    begun: list[UUID] = []

    def stop(*_: int) -> None:
        work.cancel()

    work = asyncio.create_task(penguin.leads.import_file(tenant, lines(300), "all", begun=begun.append, progress=stop))
    with pytest.raises(asyncio.CancelledError):
        await work
    assert 0 < len(await stored(oltp_db, tenant)) < 300
    other = Penguin(tiers)

    async def recovered() -> bool:
        await Recovery(other.sagas.engine).turn()
        return (await other.sagas.find("leads.import", tenant, begun[0])).state == "succeeded"

    await until(recovered)
    assert await stored(oltp_db, tenant) == everybody(300)
    done = await other.leads.resume(tenant, begun[0])
    assert (done.created, done.existed) == (300, 0)


async def test_the_same_file_while_it_is_imported_is_the_same_import(
    penguin: Penguin, tenant: UUID, oltp_db: Database, content_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[UUID] = []
    both = asyncio.Event()

    def count(saga_id: UUID) -> None:
        begun.append(saga_id)
        if len(begun) == 2:
            both.set()

    async def once_both_stand(*batch: Any) -> Any:
        await both.wait()
        return await leadbatches.create_leads(*batch)

    monkeypatch.setattr(steps, "create_leads", once_both_stand)
    one, other = await asyncio.gather(
        *(penguin.leads.import_file(tenant, lines(100), "all", begun=count) for _ in range(2))
    )
    assert begun[0] == begun[1]
    assert one == other
    assert await stored(oltp_db, tenant) == everybody(100)
    # Neither of the two files is left.
    assert await contents(content_db, tenant) == {}


async def test_a_file_that_cannot_be_read_leaves_nothing(
    penguin: Penguin, tenant: UUID, oltp_db: Database, content_db: Database
) -> None:
    with pytest.raises(LeadFileError, match="no column is the email"):
        await penguin.leads.import_file(tenant, b"name\nAnn\n", "all")
    assert await contents(content_db, tenant) == {}
    # Whoever does not look before is told by the saga.
    key = keys.storage_key()
    file = File("leads.csv", steps.CSV, b"name\nAnn\n")
    await put_file(penguin.tiers["content"], tenant, key, str(uuid4()), file, steps.FILE_KEPT)
    with pytest.raises(LeadFileError, match="no column is the email"):
        await penguin.sagas.carry_out("leads.import", tenant, {"key": key, "list": "all", "columns": {}})
    assert await contents(content_db, tenant) == {}
    assert await stored(oltp_db, tenant) == {}


async def test_what_only_the_tier_objects_to_is_in_the_report(
    penguin: Penguin, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lenient(message: object) -> None:
        """An older process, which knows less of the contract than the tier does."""

    monkeypatch.setattr("penguin_orchestrator.leadfiles.validate", lenient)
    monkeypatch.setattr(steps, "ODD_KEPT", 2)
    done = await penguin.leads.import_file(tenant, lines(30, bad=(4,)) + b"nobody else,\n,none\nsome body,\n", "all")
    assert (done.rows, done.created, done.left_out) == (33, 29, 4)
    read = csv.DictReader(io.StringIO((await penguin.leads.report(tenant, done.saga_id)).decode(), newline=""))
    assert [(each["line"], each["field"], each["reason"]) for each in read] == [
        ("4", "email", "INVALID_FIELD"), ("32", "email", "INVALID_FIELD"), ("33", "email", "NO_EMAIL"), ("", "", "MORE"),
    ]  # fmt: skip


async def test_who_was_erased_is_left_out_and_told_of_by_line_alone(
    penguin: Penguin, tenant: UUID, tiers: dict[str, Tier], oltp_db: Database
) -> None:
    erased = "Lead5@example.com"
    subject = hmac.new(KEY, erased.lower().encode(), hashlib.sha256).hexdigest()
    request = subject_pb.SuppressSubjectRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), erasure_id=str(uuid4()), subject=subject, subject_key=KEY,
        address=erased,
    )  # fmt: skip
    await tiers["oltp"].call(tiers["oltp"].stub(SubjectServiceStub).SuppressSubject, request)
    done = await penguin.leads.import_file(tenant, lines(15), "all")
    assert (done.rows, done.created, done.existed, done.reasons) == (15, 14, 0, {"SUBJECT_ERASED": 1})
    assert await report(penguin, tenant, done) == [(5, "email", "SUBJECT_ERASED")]
    told = await penguin.leads.report(tenant, done.saga_id)
    assert b"the person was erased" in told
    assert erased.lower().encode() not in told.lower()
    assert await stored(oltp_db, tenant) == everybody(15, but=(5,))


async def test_a_row_that_an_erasure_has_taken_back_is_told_of_as_erased(
    penguin: Penguin, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked_again(oltp: Tier, tenant_id: UUID, batch: Sequence[Any]) -> list[Any]:
        """The first answer was lost, and then forgotten with whom it was about."""
        answers = await leadbatches.create_leads(oltp, tenant_id, batch)
        for answer in answers:
            if answer.lead.email == "lead5@example.com":
                answer.error.reason = errors_pb2.ERROR_REASON_SAGA_COMPENSATED
        return answers

    monkeypatch.setattr(steps, "create_leads", asked_again)
    done = await penguin.leads.import_file(tenant, lines(15), "all")
    assert (done.created, done.reasons) == (14, {"SUBJECT_ERASED": 1})
    assert await report(penguin, tenant, done) == [(5, "email", "SUBJECT_ERASED")]


async def test_another_tenants_import_is_nobodys(penguin: Penguin, tenant: UUID) -> None:
    done = await penguin.leads.import_file(tenant, lines(3), "all")
    for ask in (penguin.leads.report, penguin.leads.resume):
        with pytest.raises(TierError) as raised:
            await ask(uuid4(), done.saga_id)
        assert raised.value.code is Code.NOT_FOUND
    with pytest.raises(TierError):
        await penguin.leads.report(tenant, uuid4())
