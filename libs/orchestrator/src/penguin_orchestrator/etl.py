"""The ETL from OLTP's ledger to OLAP's facts: changed days are counted anew and loaded as whole cells.

Running it twice, or two of them at once, loads the same: a load is a replacement, and an older count never replaces a newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1.facts_service_pb2_grpc import FactsServiceStub
from penguin.oltp.v1 import ledger_service_pb2 as ledger_pb
from penguin.oltp.v1.ledger_service_pb2_grpc import LedgerServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier

SOURCE = "oltp.ledger"
MEASURES = tuple(f.name for f in facts_pb.EmailMeasures.DESCRIPTOR.fields)


@dataclass(frozen=True)
class Refreshed:
    """What a run loaded."""

    days: tuple[str, ...]
    cells: int


async def refresh(tiers: Mapping[str, Tier], tenant_id: UUID) -> Refreshed:
    """Bring one tenant's facts up to its ledger; raises TierError, and then nothing of the watermark has moved."""
    oltp, olap = tiers["oltp"], tiers["olap"]
    facts, ledger = olap.stub(FactsServiceStub), oltp.stub(LedgerServiceStub)
    get = facts_pb.GetWatermarkRequest(tenant_id=str(tenant_id), source=SOURCE)
    cursor = (await olap.call(facts.GetWatermark, get)).watermark.cursor
    changed = await oltp.call(
        ledger.ListChangedDays, ledger_pb.ListChangedDaysRequest(tenant_id=str(tenant_id), cursor=cursor)
    )
    cells = 0
    for day in changed.days:
        cells += await load_day(tiers, tenant_id, day)
    commit = facts_pb.CommitWatermarkRequest(
        tenant_id=str(tenant_id),
        request_id=str(
            keys.request_id("watermark", tenant_id, changed.next_cursor, changed.data_through.ToJsonString())
        ),
        source=SOURCE,
        cursor=changed.next_cursor,
        data_through=changed.data_through,
    )
    await olap.call(facts.CommitWatermark, commit)
    return Refreshed(tuple(changed.days), cells)


async def load_day(tiers: Mapping[str, Tier], tenant_id: UUID, day: str) -> int:
    """Count one day of the ledger anew and load it whole; returns its cells. Raises TierError."""
    oltp, olap = tiers["oltp"], tiers["olap"]
    counted = await oltp.call(
        oltp.stub(LedgerServiceStub).CountDay, ledger_pb.CountDayRequest(tenant_id=str(tenant_id), day=day)
    )
    load = facts_pb.LoadDayRequest(
        tenant_id=str(tenant_id),
        request_id=str(keys.request_id("load", tenant_id, day, counted.computed_at.ToJsonString())),
        day=day,
        cells=[_cell(cell) for cell in counted.cells],
        computed_at=counted.computed_at,
    )
    reply = await olap.call(olap.stub(FactsServiceStub).LoadDay, load)
    loaded: int = reply.cells_loaded
    return loaded


def _cell(cell: ledger_pb.LedgerCell) -> facts_pb.EmailCell:
    return facts_pb.EmailCell(
        campaign_id=cell.campaign_id,
        step_id=cell.step_id,
        email_account_id=cell.email_account_id,
        measures=facts_pb.EmailMeasures(**{name: getattr(cell, name) for name in MEASURES}),
    )
