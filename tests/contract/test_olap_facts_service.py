"""FactsService: every method, by its contract."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.olap.tests.rows import DAY, cell, load_request, span, watermark_request
from tests.contract.cases import Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.olap.v1 import facts_service_pb2 as pb
from penguin.olap.v1 import report_service_pb2 as report_pb

SERVICE = "penguin.olap.v1.FactsService"
REPORTS = "penguin.olap.v1.ReportService"


async def billed(world: World, request: Any) -> Any:
    """What the tenant's days amount to."""
    asked = report_pb.GetBillingReportRequest(tenant_id=request.tenant_id, span=span())
    return await world.call(f"{REPORTS}/GetBillingReport", asked)


async def watermark(world: World, request: Any) -> Any:
    """How far the source is loaded."""
    asked = pb.GetWatermarkRequest(tenant_id=request.tenant_id, source=request.source)
    return await world.call(f"{SERVICE}/GetWatermark", asked)


async def load(world: World) -> Any:
    return load_request(world.tenant, cell(sent=3, delivered=2))


async def commit(world: World) -> Any:
    return watermark_request(world.tenant)


async def committed(world: World) -> Any:
    request = watermark_request(world.tenant)
    await world.call(f"{SERVICE}/CommitWatermark", request)
    return pb.GetWatermarkRequest(tenant_id=request.tenant_id, source=request.source)


def check_loaded(request: Any, reply: Any) -> None:
    assert request.day == DAY
    assert (reply.stale, reply.cells_loaded) == (False, 1)


def check_watermark(request: Any, reply: Any) -> None:
    assert reply.watermark.source == request.source
    assert reply.watermark.cursor == "1"


async def loaded(world: World) -> Any:
    await world.call(f"{SERVICE}/LoadDay", load_request(world.tenant, cell(sent=3), cell(str(uuid4()), sent=4)))
    return pb.ListDayFactsRequest(tenant_id=str(world.tenant), day=DAY)


def check_facts(request: Any, reply: Any) -> None:
    assert [(fact.table, fact.measures.sent) for fact in reply.facts] == [(1, 3), (1, 4), (2, 3), (2, 4), (3, 7)]


def nothing(reply: Any) -> None:
    assert not reply.facts


def none_yet(reply: Any) -> None:
    assert not reply.HasField("watermark")


class TestFactsService(ServiceContract):
    service = SERVICE
    tiers = ("olap",)
    cases = (
        Case(
            "LoadDay",
            load,
            check_loaded,
            ("cells[0].measures.sent", lambda r: setattr(r.cells[0].measures, "sent", -1)),
            "it names nothing that could be absent",
            stranger=lambda reply: equal((reply.stale, reply.cells_loaded), (False, 1)),
            mutation=Mutation(billed, vary=lambda r: setattr(r.cells[0].measures, "sent", 4)),
        ),
        Case(
            "CommitWatermark",
            commit,
            check_watermark,
            ("source", lambda r: r.ClearField("source")),
            "it names nothing that could be absent",
            stranger=lambda reply: equal(reply.watermark.cursor, "1"),
            mutation=Mutation(watermark, vary=lambda r: setattr(r, "cursor", "2")),
        ),
        Case(
            "GetWatermark",
            committed,
            check_watermark,
            ("source", lambda r: r.ClearField("source")),
            Within(lambda r: setattr(r, "source", "nobody.there"), none_yet),
            stranger=none_yet,
        ),
        Case(
            "ListDayFacts",
            loaded,
            check_facts,
            ("day", lambda r: setattr(r, "day", "yesterday")),
            Within(lambda r: setattr(r, "day", "2001-01-01"), nothing),
            stranger=nothing,
            listing=Listing("facts", 5, lambda r: setattr(r, "day", "2001-01-01")),
        ),
    )
