"""Compares OLAP's cells with a recount of the ledger, day by day: what is billed of the day, and what stands of it in every
table of sums, campaigns', steps' and mailboxes'; and looks for days that nobody loads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from penguin.olap.v1 import facts_service_pb2 as pb
from penguin.olap.v1 import report_service_pb2 as report_pb
from penguin.olap.v1.facts_service_pb2_grpc import FactsServiceStub
from penguin.olap.v1.report_service_pb2_grpc import ReportServiceStub
from penguin.oltp.v1 import ledger_service_pb2 as ledger_pb
from penguin.oltp.v1.ledger_service_pb2_grpc import LedgerServiceStub
from penguin_orchestrator import etl
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling.reading import ask, unchanged

# Days that are counted anew in one run: each is over, and is counted in as many runs.
DAYS = 7
TIMEOUT_S = 25.0
# Changes are loaded within minutes: what has waited for so long waits for nobody.
WAITED = timedelta(hours=1)
# Nor does a day that ended so long ago, of a tenant that was never loaded.
NEVER_LOADED = timedelta(days=1)
BILLED = {"sent": "emails_sent", "delivered": "emails_delivered", "bounced": "emails_bounced"}

PAGE = 1000
BILLING = 0
# A table, the ids of its row (a campaign's and a step's, or a mailbox's), and a measure.
Place = tuple[int, str, str, str]
Counts = dict[Place, int]


class FactsComparison:
    """Compares one tenant's days. Every method raises RefusedError."""

    def __init__(self, tiers: Mapping[str, Tier], tenant_id: UUID, today: date) -> None:
        self._tiers = tiers
        self._oltp, self._olap = tiers["oltp"], tiers["olap"]
        self._tenant_id = tenant_id
        self._days = [(today - timedelta(days=n)).isoformat() for n in range(1, DAYS + 1)]

    async def run(self) -> tuple[int, list[str]]:
        """How many days were compared, and those that differ. A day with changes that the ETL has yet to load is none."""
        days = await self._loaded()
        differing = [day for day in days if await self._differs(day)]
        # What was loaded between the two looks differs no more, and what has changed since is the ETL's.
        differing = [day for day in differing if await self._differs(day)]
        still = set(await self._loaded()) if differing else set[str]()
        return len(days), [day for day in differing if day in still]

    async def unloaded(self, now: datetime) -> list[str]:
        """Days with changes that have waited to be loaded for longer than an hour. Before the first load, days that ended more than
        a day ago: since when its changes wait is not known then."""
        mark = await self._watermark()
        if not mark.cursor:
            ended = (now - NEVER_LOADED).date().isoformat()
            return [day for day in await self._changed("") if day < ended]
        # What was there to be read when it was last loaded is loaded.
        last = max(mark.data_through.ToDatetime(UTC), mark.committed_at.ToDatetime(UTC))
        return await self._changed(mark.cursor) if last < now - WAITED else []

    async def refresh(self) -> None:
        """Load whatever waits. Raises LeftOutError too."""
        try:
            await etl.refresh(self._tiers, self._tenant_id)
        except TierError as error:
            raise unchanged(error) from None

    async def reload(self, day: str) -> None:
        """Load the day as it is counted now. Raises LeftOutError too."""
        try:
            await etl.load_day(self._tiers, self._tenant_id, day)
        except TierError as error:
            raise unchanged(error) from None

    async def _loaded(self) -> list[str]:
        """Days without a change that waits to be loaded; none before the first load."""
        cursor = (await self._watermark()).cursor
        if not cursor:
            return []
        changed = set(await self._changed(cursor))
        return [day for day in self._days if day not in changed]

    async def _watermark(self) -> pb.Watermark:
        get = pb.GetWatermarkRequest(tenant_id=str(self._tenant_id), source=etl.SOURCE)
        reply: pb.GetWatermarkResponse = await _ask(self._olap, self._olap.stub(FactsServiceStub).GetWatermark, get)
        return reply.watermark

    async def _changed(self, cursor: str) -> list[str]:
        """Days that have changed since."""
        request = ledger_pb.ListChangedDaysRequest(tenant_id=str(self._tenant_id), cursor=cursor)
        changed = await _ask(self._oltp, self._oltp.stub(LedgerServiceStub).ListChangedDays, request)
        return list(changed.days)

    async def _differs(self, day: str) -> bool:
        return await self._recounted(day) != await self._reported(day)

    async def _recounted(self, day: str) -> Counts:
        request = ledger_pb.CountDayRequest(tenant_id=str(self._tenant_id), day=day)
        counted = await _ask(self._oltp, self._oltp.stub(LedgerServiceStub).CountDay, request)
        counts: Counts = {}
        for cell in counted.cells:
            for name in etl.MEASURES:
                count = getattr(cell, name)
                _add(counts, (pb.FACT_TABLE_CAMPAIGN, cell.campaign_id, "", name), count)
                _add(counts, (pb.FACT_TABLE_SEQUENCE_STEP, cell.campaign_id, cell.step_id, name), count)
                _add(counts, (pb.FACT_TABLE_MAILBOX, cell.email_account_id, "", name), count)
                if name in BILLED:
                    _add(counts, (BILLING, "", "", name), count)
        return counts

    async def _reported(self, day: str) -> Counts:
        counts: Counts = {}
        span = report_pb.DaySpan(first_day=day, last_day=day)
        billing = report_pb.GetBillingReportRequest(tenant_id=str(self._tenant_id), span=span)
        totals = (await _ask(self._olap, self._olap.stub(ReportServiceStub).GetBillingReport, billing)).totals
        for name, billed in BILLED.items():
            _add(counts, (BILLING, "", "", name), getattr(totals, billed))
        request = pb.ListDayFactsRequest(tenant_id=str(self._tenant_id), day=day, page_size=PAGE)
        while True:
            reply = await _ask(self._olap, self._olap.stub(FactsServiceStub).ListDayFacts, request)
            for fact in reply.facts:
                for name in etl.MEASURES:
                    place = fact.table, fact.campaign_id or fact.email_account_id, fact.step_id, name
                    _add(counts, place, getattr(fact.measures, name))
            if not reply.next_page_token:
                return counts
            request.page_token = reply.next_page_token


def _add(counts: Counts, place: Place, count: int) -> None:
    if count:
        counts[place] = counts.get(place, 0) + count


async def _ask(tier: Tier, method: Any, request: Any) -> Any:
    return await ask(tier, method, request, TIMEOUT_S)
