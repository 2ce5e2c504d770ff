"""LedgerService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import ledger_service_pb2 as pb
from penguin.oltp.v1 import ledger_service_pb2_grpc
from penguin_chassis.mutations import now
from penguin_chassis.pool import Database
from penguin_chassis.wire import stamp
from penguin_oltp.domain.ledger import cursor_of
from penguin_oltp.servicers import ledger_wire as wire
from penguin_oltp.store.ledger import LedgerStore


class LedgerServicer(ledger_service_pb2_grpc.LedgerServiceServicer):
    """The ledger's counts."""

    def __init__(self, db: Database) -> None:
        self._ledger = LedgerStore(db)

    async def ListChangedDays(self, request: pb.ListChangedDaysRequest, context: Any) -> pb.ListChangedDaysResponse:
        found = await self._ledger.changed_days(UUID(request.tenant_id), cursor_of(request.cursor), now)
        return pb.ListChangedDaysResponse(
            days=found.days, next_cursor=found.cursor.encode(), data_through=stamp(found.cursor.through)
        )

    async def CountDay(self, request: pb.CountDayRequest, context: Any) -> pb.CountDayResponse:
        day, at = wire.day(request.day), now()
        cells = await self._ledger.count_day(UUID(request.tenant_id), day)
        return pb.CountDayResponse(cells=map(wire.cell, cells), computed_at=stamp(at))
