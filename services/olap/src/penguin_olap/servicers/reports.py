"""ReportService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.olap.v1 import report_service_pb2 as pb
from penguin.olap.v1 import report_service_pb2_grpc
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_olap.domain.facts import NOBODY
from penguin_olap.servicers import reports_wire as wire
from penguin_olap.store.reports import ReportStore


class ReportServicer(report_service_pb2_grpc.ReportServiceServicer):
    """Reports, each with how fresh it is."""

    def __init__(self, db: Database) -> None:
        self._reports = ReportStore(db)

    async def GetCampaignReport(
        self, request: pb.GetCampaignReportRequest, context: Any
    ) -> pb.GetCampaignReportResponse:
        span = wire.span(request.span)
        report = await self._reports.campaign(UUID(request.tenant_id), UUID(request.campaign_id), span)
        return wire.campaign_report(report)

    async def ListCampaignTotals(
        self, request: pb.ListCampaignTotalsRequest, context: Any
    ) -> pb.ListCampaignTotalsResponse:
        span, size = wire.span(request.span), page_size(request.page_size)
        after = page_start(request, lambda key: UUID(key[0]), NOBODY)
        found = await self._reports.campaign_totals(UUID(request.tenant_id), span, after, size + 1)
        more = len(found.campaigns) > size
        token = next_token(request, [str(found.campaigns[size - 1][0])]) if more else ""
        return wire.campaign_totals(found, size, token)

    async def GetMailboxReport(self, request: pb.GetMailboxReportRequest, context: Any) -> pb.GetMailboxReportResponse:
        span = wire.span(request.span)
        report = await self._reports.mailbox(UUID(request.tenant_id), UUID(request.email_account_id), span)
        return wire.mailbox_report(report)

    async def GetBillingReport(self, request: pb.GetBillingReportRequest, context: Any) -> pb.GetBillingReportResponse:
        report = await self._reports.billing(UUID(request.tenant_id), wire.span(request.span))
        return wire.billing_report(report)
