"""SubjectService: every method, by its contract: OLTP's part in erasing a person."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any
from uuid import uuid4

from services.oltp.tests.rows import create_request, new_email, new_lead
from tests.contract.cases import Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World, method_at, right_token

from penguin.common.v1 import mutation_pb2
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.tier.v1 import erasure_pb2
from penguin_orchestrator import keys

SERVICE = "penguin.oltp.v1.SubjectService"
ADDRESS = "Ada@Example.com"
KEY = b"k" * 32
SUBJECT = hmac.new(KEY, ADDRESS.lower().encode(), hashlib.sha256).hexdigest()


async def written_to(world: World, count: int = 2) -> None:
    """Emails to the subject, and one to somebody else."""
    emails = [new_email(recipient=ADDRESS if n % 2 else ADDRESS.lower()) for n in range(count)]
    request = create_request(world.tenant, *emails, new_email(recipient="bob@example.com"))
    await world.call("penguin.oltp.v1.EmailService/BatchCreateEmails", request)


async def suppress(world: World) -> Any:
    await written_to(world)
    return pb.SuppressSubjectRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), erasure_id=str(keys.new_id()), subject=SUBJECT,
        subject_key=KEY, address=ADDRESS,
    )  # fmt: skip


async def barred(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        subjects = await connection.fetch("SELECT * FROM erased_subjects WHERE tenant_id = $1", world.tenant)
        emails = await connection.fetch("SELECT status FROM emails WHERE tenant_id = $1 ORDER BY id", world.tenant)
    return [row["subject"] for row in subjects], [row["status"] for row in emails]


def check_suppressed(request: Any, reply: Any) -> None:
    assert (reply.cancelled, list(reply.own)) == (2, [])


async def items(world: World) -> Any:
    await written_to(world, 5)
    return pb.ListSubjectItemsRequest(tenant_id=str(world.tenant), address=ADDRESS)


def check_items(request: Any, reply: Any) -> None:
    assert len(reply.items) == 5
    assert all(item.email_id and item.storage_key and not item.cancelled for item in reply.items)


def erasure_of(world: World) -> pb.RecordErasureRequest:
    erasure_id = str(keys.new_id())
    request = pb.RecordErasureRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), erasure_id=erasure_id, subject=SUBJECT
    )
    receipt = request.receipts.add(tier="oltp", erasure_id=erasure_id, subject=SUBJECT, chain_head="a" * 64)
    receipt.counts["emails"] = 3
    receipt.erased_at.FromSeconds(1_700_000_000)
    mention = erasure_pb2.Mention(table="templates", key="1", place="subject")
    request.mentions.add(tier="oltp", mentions=[mention], total=7)
    return request


async def record(world: World) -> Any:
    return erasure_of(world)


async def recorded(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        rows = await connection.fetch("SELECT * FROM erasure_receipts WHERE tenant_id = $1", world.tenant)
    return [dict(row) for row in rows]


def check_recorded(request: Any, reply: Any) -> None:
    erasure = reply.erasure
    assert (erasure.id, erasure.subject) == (request.erasure_id, SUBJECT)
    assert list(erasure.receipts) == list(request.receipts)
    assert list(erasure.mentions) == list(request.mentions)


async def list_four(world: World) -> Any:
    for _ in range(4):
        await world.call(f"{SERVICE}/RecordErasure", erasure_of(world))
    return pb.ListErasuresRequest(tenant_id=str(world.tenant))


def check_list(request: Any, reply: Any) -> None:
    ids = [erasure.id for erasure in reply.erasures]
    assert (len(ids), ids) == (4, sorted(ids))
    assert [[receipt.tier for receipt in erasure.receipts] for erasure in reply.erasures] == [["oltp"]] * 4


def export_of(world: World, subject: str = SUBJECT) -> pb.RecordExportRequest:
    return pb.RecordExportRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), export_id=str(keys.new_id()), subject=subject
    )


async def record_export(world: World) -> Any:
    return export_of(world)


async def exports_recorded(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        rows = await connection.fetch("SELECT * FROM subject_exports WHERE tenant_id = $1", world.tenant)
    return [dict(row) for row in rows]


def check_export(request: Any, reply: Any) -> None:
    export = reply.subject_export
    assert (export.id, export.tenant_id, export.subject) == (request.export_id, request.tenant_id, SUBJECT)
    assert export.actor, "nobody is named who had it exported"
    assert export.asked_at.seconds > 0


async def list_five_exports(world: World) -> Any:
    for n in range(5):
        await world.call(f"{SERVICE}/RecordExport", export_of(world, SUBJECT if n else "6" * 64))
    return pb.ListExportsRequest(tenant_id=str(world.tenant))


def check_exports(request: Any, reply: Any) -> None:
    ids = [export.id for export in reply.subject_exports]
    assert (len(ids), ids) == (5, sorted(ids))
    assert [export.subject for export in reply.subject_exports] == ["6" * 64, *[SUBJECT] * 4]


class TestSubjectService(ServiceContract):
    service = SERVICE
    tiers = ("oltp",)
    cases = (
        Case(
            "SuppressSubject",
            suppress,
            check_suppressed,
            ("subject_key", lambda r: setattr(r, "subject_key", b"short")),
            "who is not known can be barred as well",
            stranger=lambda reply: equal(reply.cancelled, 0),
            mutation=Mutation(barred, vary=lambda r: setattr(r, "subject", "6" * 64)),
        ),
        Case(
            "ListSubjectItems",
            items,
            check_items,
            ("address", lambda r: setattr(r, "address", "ada")),
            Within(lambda r: setattr(r, "address", "nobody@example.com"), lambda reply: equal(list(reply.items), [])),
            stranger=lambda reply: equal(list(reply.items), []),
            listing=Listing("items", 5, lambda r: setattr(r, "address", "bob@example.com")),
        ),
        Case(
            "RecordErasure",
            record,
            check_recorded,
            ("receipts", lambda r: r.ClearField("receipts")),
            "what is recorded refers to nothing that could be missing",
            stranger=lambda reply: None,
            mutation=Mutation(recorded, vary=lambda r: setattr(r.mentions[0], "total", 8)),
        ),
        Case(
            "ListErasures",
            list_four,
            check_list,
            ("page_size", lambda r: setattr(r, "page_size", 1001)),
            "a list of nothing is empty",
            stranger=lambda reply: equal(list(reply.erasures), []),
            listing=Listing("erasures", 4),
        ),
        Case(
            "RecordExport",
            record_export,
            check_export,
            ("subject", lambda r: setattr(r, "subject", ADDRESS)),
            "whose data there is none of can be asked for as well",
            stranger=lambda reply: None,
            mutation=Mutation(exports_recorded, vary=lambda r: setattr(r, "subject", "6" * 64)),
        ),
        Case(
            "ListExports",
            list_five_exports,
            check_exports,
            ("subject", lambda r: setattr(r, "subject", ADDRESS)),
            Within(lambda r: setattr(r, "subject", "7" * 64), lambda reply: equal(list(reply.subject_exports), [])),
            stranger=lambda reply: equal(list(reply.subject_exports), []),
            listing=Listing("subject_exports", 5, lambda r: setattr(r, "subject", SUBJECT)),
        ),
    )

    async def test_an_export_is_recorded_once_under_its_id(self, world: World) -> None:
        request = export_of(world)
        await world.call(f"{SERVICE}/RecordExport", request)
        request.request_id = str(uuid4())
        path = f"{SERVICE}/RecordExport"
        refused = await world.refusal(path, request, right_token(world, method_at(path), request))
        assert refused.reason == "ALREADY_EXISTS"

    async def test_whoever_was_erased_is_written_to_by_no_way(self, world: World) -> None:
        request = await suppress(world)
        await world.call(f"{SERVICE}/SuppressSubject", request)
        batch = create_request(
            world.tenant, new_email(recipient=ADDRESS.upper()), new_email(recipient="carol@example.com")
        )
        results = (await world.call("penguin.oltp.v1.EmailService/BatchCreateEmails", batch)).results
        assert [result.WhichOneof("outcome") for result in results] == ["error", "email"]
        assert results[0].error.field == "recipient"
        # A lead may come again: it is in no audience. Nor does the list of the suppressed keep the address.
        leads = lead_pb.BatchCreateLeadsRequest(
            tenant_id=str(world.tenant), leads=[new_lead(email=ADDRESS, list="spring")]
        )
        await world.call("penguin.oltp.v1.LeadService/BatchCreateLeads", leads)
        item = suppression_pb.NewSuppression(request_id=str(uuid4()), id=str(uuid4()), address=ADDRESS)
        again = suppression_pb.CreateSuppressionRequest(tenant_id=str(world.tenant), suppression=item)
        path = "penguin.oltp.v1.SuppressionService/CreateSuppression"
        refusal = await world.refusal(path, again, right_token(world, method_at(path), again))
        assert refusal.code == "ALREADY_EXISTS"

    async def test_a_compensation_lifts_the_bar_that_its_action_put(self, world: World) -> None:
        request = await suppress(world)
        step = mutation_pb2.SagaStep(
            saga_id=str(uuid4()), step="suppress", operation=mutation_pb2.STEP_OPERATION_ACTION
        )
        request.saga_step.CopyFrom(step)
        await world.call(f"{SERVICE}/SuppressSubject", request)
        assert (await barred(world, request))[0] == [bytes.fromhex(SUBJECT)]
        request.saga_step.operation = mutation_pb2.STEP_OPERATION_COMPENSATION
        await world.call(f"{SERVICE}/SuppressSubject", request)
        assert (await barred(world, request))[0] == []
