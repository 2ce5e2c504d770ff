"""Reports between the domain and the wire."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import date

from penguin.olap.v1 import report_service_pb2 as pb
from penguin_chassis.wire import stamp
from penguin_olap.domain.days import Span, span_of
from penguin_olap.domain.facts import Measures, total
from penguin_olap.domain.reports import (
    BillingReport,
    CampaignReport,
    CampaignTotals,
    Freshness,
    MailboxReport,
    Usage,
    total_usage,
)
from penguin_olap.servicers.facts_wire import measures


def span(named: pb.DaySpan) -> Span:
    """The span a request names; raises InvalidArgument naming span.first_day or span.last_day."""
    return span_of(named.first_day, named.last_day)


def campaign_report(report: CampaignReport) -> pb.GetCampaignReportResponse:
    """One campaign."""
    return pb.GetCampaignReportResponse(
        totals=measures(total(counts for _, counts in report.days)),
        days=_days(report.days),
        steps=[pb.StepMeasures(step_id=str(step), measures=measures(counts)) for step, counts in report.steps],
        freshness=_freshness(report.freshness),
    )


def campaign_totals(found: CampaignTotals, size: int, token: str) -> pb.ListCampaignTotalsResponse:
    """A page of `size` campaigns; what was read beyond it only told that there is more."""
    return pb.ListCampaignTotalsResponse(
        campaigns=[
            pb.CampaignTotals(campaign_id=str(campaign), measures=measures(counts))
            for campaign, counts in found.campaigns[:size]
        ],
        next_page_token=token,
        freshness=_freshness(found.freshness),
    )


def mailbox_report(report: MailboxReport) -> pb.GetMailboxReportResponse:
    """One mailbox."""
    return pb.GetMailboxReportResponse(
        totals=measures(total(counts for _, counts in report.days)),
        days=_days(report.days),
        freshness=_freshness(report.freshness),
    )


def billing_report(report: BillingReport) -> pb.GetBillingReportResponse:
    """A tenant's usage."""
    return pb.GetBillingReportResponse(
        days=[_usage(usage, day.isoformat()) for day, usage in report.days],
        totals=_usage(total_usage(usage for _, usage in report.days)),
        freshness=_freshness(report.freshness),
    )


def _days(days: Iterable[tuple[date, Measures]]) -> list[pb.DayMeasures]:
    return [pb.DayMeasures(day=day.isoformat(), measures=measures(counts)) for day, counts in days]


def _usage(usage: Usage, day: str = "") -> pb.BillingDay:
    return pb.BillingDay(day=day, **asdict(usage))


def _freshness(freshness: Freshness) -> pb.Freshness:
    return pb.Freshness(data_through=stamp(freshness.data_through), computed_at=stamp(freshness.computed_at))
