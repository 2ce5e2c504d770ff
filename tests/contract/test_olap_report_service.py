"""ReportService: every method, by its contract."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.olap.tests.rows import cell, load_request, span, watermark_request
from tests.contract.cases import Case, Listing, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.olap.v1 import report_service_pb2 as pb

SERVICE = "penguin.olap.v1.ReportService"
FACTS = "penguin.olap.v1.FactsService"
CAMPAIGN, STEP, MAILBOX, UNKNOWN = (str(uuid4()) for _ in range(4))
SENT = 3


async def load(world: World) -> None:
    """One cell of facts, and how fresh they are."""
    loaded = load_request(world.tenant, cell(CAMPAIGN, STEP, MAILBOX, sent=SENT))
    await world.call(f"{FACTS}/LoadDay", loaded)
    await world.call(f"{FACTS}/CommitWatermark", watermark_request(world.tenant))


async def campaign(world: World) -> Any:
    await load(world)
    return pb.GetCampaignReportRequest(tenant_id=str(world.tenant), campaign_id=CAMPAIGN, span=span())


async def mailbox(world: World) -> Any:
    await load(world)
    return pb.GetMailboxReportRequest(tenant_id=str(world.tenant), email_account_id=MAILBOX, span=span())


async def billing(world: World) -> Any:
    await load(world)
    return pb.GetBillingReportRequest(tenant_id=str(world.tenant), span=span())


async def totals(world: World) -> Any:
    cells = [cell(str(uuid4()), STEP, MAILBOX, sent=n) for n in range(1, 6)]
    await world.call(f"{FACTS}/LoadDay", load_request(world.tenant, *cells))
    return pb.ListCampaignTotalsRequest(tenant_id=str(world.tenant), span=span())


def check(request: Any, reply: Any) -> None:
    """Whatever is reported is all that was loaded, and says how fresh it is."""
    assert reply.totals.sent == SENT
    assert [day.measures.sent for day in reply.days] == [SENT]
    assert reply.freshness.HasField("data_through")
    assert reply.freshness.HasField("computed_at")


def check_billing(request: Any, reply: Any) -> None:
    assert reply.totals.emails_sent == SENT
    assert [day.emails_sent for day in reply.days] == [SENT]
    assert reply.freshness.HasField("computed_at")


def nothing(reply: Any) -> None:
    assert list(reply.days) == []
    assert not reply.totals.sent


def nothing_billed(reply: Any) -> None:
    assert (list(reply.days), reply.totals.emails_sent) == ([], 0)


def narrowed(request: Any) -> None:
    """Another span, on another filter."""
    request.span.last_day = "2031-05-30"


class TestReportService(ServiceContract):
    service = SERVICE
    tiers = ("olap",)
    cases = (
        Case(
            "GetCampaignReport",
            campaign,
            check,
            ("span.first_day", lambda r: setattr(r.span, "first_day", "May")),
            Within(lambda r: setattr(r, "campaign_id", UNKNOWN), nothing),
            stranger=nothing,
        ),
        Case(
            "ListCampaignTotals",
            totals,
            lambda request, reply: equal(sorted(c.measures.sent for c in reply.campaigns), [1, 2, 3, 4, 5]),
            ("span", lambda r: r.ClearField("span")),
            "a list of nothing is empty",
            stranger=lambda reply: equal(list(reply.campaigns), []),
            listing=Listing("campaigns", 5, narrowed),
        ),
        Case(
            "GetMailboxReport",
            mailbox,
            check,
            ("email_account_id", lambda r: setattr(r, "email_account_id", "x")),
            Within(lambda r: setattr(r, "email_account_id", UNKNOWN), nothing),
            stranger=nothing,
        ),
        Case(
            "GetBillingReport",
            billing,
            check_billing,
            ("span.last_day", lambda r: setattr(r.span, "last_day", "May")),
            "a tenant without facts has nothing to pay",
            stranger=nothing_billed,
        ),
    )
