"""FactsService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.olap.v1 import facts_service_pb2 as pb
from penguin.olap.v1 import facts_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_olap.domain.days import day_of
from penguin_olap.servicers import facts_wire as wire
from penguin_olap.store.facts import FactStore


class FactsServicer(facts_service_pb2_grpc.FactsServiceServicer):
    """Whole cells per (tenant, day), and how far they go."""

    def __init__(self, db: Database, price_usd_micros_per_email: int) -> None:
        self._facts = FactStore(db, price_usd_micros_per_email)

    async def LoadDay(self, request: pb.LoadDayRequest, context: Any) -> pb.LoadDayResponse:
        at = now()
        loaded = await self._facts.load_day(step_of(request, at=at), wire.loading(request, at))
        return pb.LoadDayResponse(stale=loaded.stale, cells_loaded=loaded.cells)

    async def CommitWatermark(self, request: pb.CommitWatermarkRequest, context: Any) -> pb.CommitWatermarkResponse:
        at = now()
        data_through = wire.data_through(request, at)
        stored = await self._facts.commit_watermark(
            step_of(request, at=at), request.source, request.cursor, data_through
        )
        return pb.CommitWatermarkResponse(watermark=wire.watermark(stored))

    async def GetWatermark(self, request: pb.GetWatermarkRequest, context: Any) -> pb.GetWatermarkResponse:
        found = await self._facts.watermark(UUID(request.tenant_id), request.source)
        return pb.GetWatermarkResponse(watermark=wire.watermark(found) if found else None)

    async def ListDayFacts(self, request: pb.ListDayFactsRequest, context: Any) -> pb.ListDayFactsResponse:
        day, size = day_of(request.day, "day"), page_size(request.page_size)
        after = page_start(request, wire.placed, None)
        found = await self._facts.day_facts(UUID(request.tenant_id), day, after, size + 1)
        token = next_token(request, wire.place(found[size - 1])) if len(found) > size else ""
        return pb.ListDayFactsResponse(facts=map(wire.fact, found[:size]), next_page_token=token)
