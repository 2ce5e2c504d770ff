"""ReportService as its clients see it."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from services.olap.tests.rows import cell, counted, load_request, span, watermark_request

from penguin.olap.v1 import facts_service_pb2 as facts_pb
from penguin.olap.v1 import report_service_pb2 as pb
from penguin.olap.v1.facts_service_pb2_grpc import FactsServiceStub
from penguin.olap.v1.report_service_pb2_grpc import ReportServiceStub
from penguin_olap.domain.facts import MEASURES
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(olap: TierClient) -> ReportServiceStub:
    return ReportServiceStub(olap.channel)


async def load(olap: TierClient, tenant: UUID, *cells: facts_pb.EmailCell, **fields: Any) -> None:
    await olap.call(FactsServiceStub(olap.channel).LoadDay, load_request(tenant, *cells, **fields))


def requests(tenant: UUID, named: pb.DaySpan | None) -> dict[str, Any]:
    return {
        "GetCampaignReport": pb.GetCampaignReportRequest(tenant_id=str(tenant), campaign_id=str(uuid4()), span=named),
        "ListCampaignTotals": pb.ListCampaignTotalsRequest(tenant_id=str(tenant), span=named),
        "GetMailboxReport": pb.GetMailboxReportRequest(
            tenant_id=str(tenant), email_account_id=str(uuid4()), span=named
        ),
        "GetBillingReport": pb.GetBillingReportRequest(tenant_id=str(tenant), span=named),
    }


METHODS = tuple(requests(uuid4(), None))


async def test_a_campaign_by_day_and_by_step(olap: TierClient, stub: ReportServiceStub, tenant: UUID) -> None:
    campaign, mailbox, first, second = (str(uuid4()) for _ in range(4))
    everything = {name: n for n, name in enumerate(MEASURES, 1)}
    await load(
        olap, tenant, cell(campaign, first, mailbox, **everything), cell(campaign, first, sent=1),
        cell(campaign, second, mailbox, sent=10), cell(campaign, sent=100), cell(str(uuid4()), first, sent=1000),
        day="2031-05-02", at=1,
    )  # fmt: skip
    await load(olap, tenant, cell(campaign, second, sent=5), day="2031-05-01", at=2)
    await load(olap, tenant, cell(campaign, second, sent=7), day="2031-06-01", at=3)
    await olap.call(FactsServiceStub(olap.channel).CommitWatermark, watermark_request(tenant, at=60))
    request = pb.GetCampaignReportRequest(tenant_id=str(tenant), campaign_id=campaign, span=span())
    report = await olap.call(stub.GetCampaignReport, request)
    assert [(d.day, d.measures.sent) for d in report.days] == [("2031-05-01", 5), ("2031-05-02", 112)]
    assert report.totals == facts_pb.EmailMeasures(**everything | {"sent": 117})
    assert {s.step_id: s.measures.sent for s in report.steps} == {first: 2, second: 15}
    assert [s.step_id for s in report.steps] == sorted((first, second))
    assert report.freshness == pb.Freshness(data_through=counted(60), computed_at=counted(2))


async def test_campaigns_page_whole_and_leave_other_emails_out(
    olap: TierClient, stub: ReportServiceStub, tenant: UUID
) -> None:
    campaigns = sorted(str(uuid4()) for _ in range(5))
    for n, day in enumerate(("2031-05-01", "2031-05-31")):
        await load(olap, tenant, cell(sent=99), *(cell(c, sent=i) for i, c in enumerate(campaigns)), day=day, at=n)
    seen: list[tuple[str, int]] = []
    request = pb.ListCampaignTotalsRequest(tenant_id=str(tenant), span=span(), page_size=2)
    for pages in (2, 2, 1):
        page = await olap.call(stub.ListCampaignTotals, request)
        assert len(page.campaigns) == pages
        assert page.freshness.computed_at == counted(1)
        seen += [(c.campaign_id, c.measures.sent) for c in page.campaigns]
        request.page_token = page.next_page_token
    assert page.next_page_token == ""
    assert seen == [(c, 2 * i) for i, c in enumerate(campaigns)]


async def test_page_tokens_are_bound_to_their_query(olap: TierClient, stub: ReportServiceStub, tenant: UUID) -> None:
    await load(olap, tenant, cell(str(uuid4()), sent=1), cell(str(uuid4()), sent=1))
    request = pb.ListCampaignTotalsRequest(tenant_id=str(tenant), span=span(), page_size=1)
    request.page_token = (await olap.call(stub.ListCampaignTotals, request)).next_page_token
    request.span.last_day = "2031-05-30"
    with pytest.raises(Refused) as refused:
        await olap.call(stub.ListCampaignTotals, request)
    assert refused.value.answer.reason == "INVALID_PAGE_TOKEN"


async def test_a_mailbox_by_day(olap: TierClient, stub: ReportServiceStub, tenant: UUID) -> None:
    mailbox = str(uuid4())
    await load(
        olap, tenant, cell(mailbox=mailbox, sent=3), cell(str(uuid4()), mailbox=mailbox, sent=4, bounced=1),
        cell(mailbox=str(uuid4()), sent=50),
    )  # fmt: skip
    request = pb.GetMailboxReportRequest(tenant_id=str(tenant), email_account_id=mailbox, span=span())
    report = await olap.call(stub.GetMailboxReport, request)
    assert [(d.day, d.measures.sent, d.measures.bounced) for d in report.days] == [("2031-05-17", 7, 1)]
    assert report.totals == report.days[0].measures
    assert report.freshness.computed_at == counted()
    assert not report.freshness.HasField("data_through")


async def test_billing_counts_every_email(olap: TierClient, stub: ReportServiceStub, tenant: UUID) -> None:
    await load(
        olap, tenant, cell(sent=30, delivered=20, bounced=2), cell(str(uuid4()), sent=70, delivered=60),
        day="2031-05-02", content_bytes=4096,
    )  # fmt: skip
    await load(olap, tenant, day="2031-05-01", content_bytes=1)
    report = await olap.call(stub.GetBillingReport, pb.GetBillingReportRequest(tenant_id=str(tenant), span=span()))
    day = pb.BillingDay(
        day="2031-05-02", emails_sent=100, emails_delivered=80, emails_bounced=2, content_bytes=4096,
        estimated_cost_usd_micros=10_000,
    )  # fmt: skip
    assert list(report.days) == [pb.BillingDay(day="2031-05-01", content_bytes=1), day]
    assert (report.totals.emails_sent, report.totals.content_bytes) == (100, 4097)
    assert (report.totals.day, report.totals.estimated_cost_usd_micros) == ("", 10_000)


async def test_nothing_loaded_is_an_empty_report(olap: TierClient, stub: ReportServiceStub, tenant: UUID) -> None:
    for name, request in requests(tenant, span()).items():
        report = await olap.call(getattr(stub, name), request)
        assert not report.freshness.HasField("computed_at")
        assert not report.freshness.HasField("data_through")
        assert not (report.campaigns if name == "ListCampaignTotals" else report.days)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        ("2031-02-29", "2031-03-01", "span.first_day"),
        ("2031-02-01", "2031-02-29", "span.last_day"),
        ("2031-02-02", "2031-02-01", "span.last_day"),
        ("2031-01-01", "2032-01-02", "span.last_day"),
        ("1.1.2031", "2031-01-01", "span.first_day"),
    ],
)
async def test_a_span_must_be_one(
    olap: TierClient, stub: ReportServiceStub, tenant: UUID, method: str, first: str, last: str, field: str
) -> None:
    with pytest.raises(Refused) as refused:
        await olap.call(getattr(stub, method), requests(tenant, span(first, last))[method])
    answer = refused.value.answer
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize("method", METHODS)
async def test_nobody_reads_of_another(olap: TierClient, stub: ReportServiceStub, tenant: UUID, method: str) -> None:
    request = requests(tenant, None)[method]
    with pytest.raises(Refused) as refused:
        await olap.call(getattr(stub, method), request)
    assert refused.value.answer.fields == ["span"]
    request.span.CopyFrom(span())
    with pytest.raises(Refused) as refused:
        await olap.call(getattr(stub, method), request, anonymous=True)
    assert refused.value.answer.code is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(Refused) as refused:
        await olap.call(getattr(stub, method), request, tenant=uuid4())
    assert refused.value.answer.reason == "TENANT_MISMATCH"


async def test_a_tenant_sees_its_own_facts_alone(olap: TierClient, stub: ReportServiceStub, tenant: UUID) -> None:
    campaign, mailbox = str(uuid4()), str(uuid4())
    await load(olap, tenant, cell(campaign, mailbox=mailbox, sent=5))
    asked = requests(uuid4(), span())
    asked["GetCampaignReport"].campaign_id = campaign
    asked["GetMailboxReport"].email_account_id = mailbox
    for name, request in asked.items():
        report = await olap.call(getattr(stub, name), request)
        assert not (report.campaigns if name == "ListCampaignTotals" else report.days)
