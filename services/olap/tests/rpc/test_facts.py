"""FactsService as its clients see it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from services.olap.tests.rows import DAY, cell, counted, load_request, span, watermark_request

from penguin.olap.v1 import facts_service_pb2 as pb
from penguin.olap.v1 import report_service_pb2 as report_pb
from penguin.olap.v1.facts_service_pb2_grpc import FactsServiceStub
from penguin.olap.v1.report_service_pb2_grpc import ReportServiceStub
from penguin_testkit.calling import Refused, TierClient


@pytest.fixture
def stub(olap: TierClient) -> FactsServiceStub:
    return FactsServiceStub(olap.channel)


async def sent(olap: TierClient, tenant: UUID, campaign: str) -> int:
    request = report_pb.GetCampaignReportRequest(tenant_id=str(tenant), campaign_id=campaign, span=span())
    reply = await olap.call(ReportServiceStub(olap.channel).GetCampaignReport, request)
    total: int = reply.totals.sent
    return total


async def refusal(olap: TierClient, method: Any, request: Any, **how: Any) -> Any:
    with pytest.raises(Refused) as refused:
        await olap.call(method, request, **how)
    return refused.value.answer


async def test_a_load_replaces_the_whole_day(olap: TierClient, stub: FactsServiceStub, tenant: UUID) -> None:
    kept, gone = str(uuid4()), str(uuid4())
    first = await olap.call(stub.LoadDay, load_request(tenant, cell(kept, sent=5), cell(gone, sent=7)))
    assert (first.stale, first.cells_loaded) == (False, 2)
    second = await olap.call(stub.LoadDay, load_request(tenant, cell(kept, sent=6), at=1))
    assert (second.stale, second.cells_loaded) == (False, 1)
    assert [await sent(olap, tenant, each) for each in (kept, gone)] == [6, 0]
    emptied = await olap.call(stub.LoadDay, load_request(tenant, at=2))
    assert (emptied.stale, emptied.cells_loaded) == (False, 0)
    assert await sent(olap, tenant, kept) == 0


async def test_an_older_count_is_stale_and_the_same_one_is_not(
    olap: TierClient, stub: FactsServiceStub, tenant: UUID
) -> None:
    campaign = str(uuid4())
    await olap.call(stub.LoadDay, load_request(tenant, cell(campaign, sent=5), at=10))
    for at, count in ((0, 9), (10, 9)):
        reply = await olap.call(stub.LoadDay, load_request(tenant, cell(campaign, sent=count), at=at))
        assert (reply.stale, reply.cells_loaded) == (True, 0)
    again = await olap.call(stub.LoadDay, load_request(tenant, cell(campaign, sent=5), at=10))
    assert (again.stale, again.cells_loaded) == (False, 1)
    assert await sent(olap, tenant, campaign) == 5


async def test_concurrent_loads_of_a_day_leave_the_newest(
    olap: TierClient, stub: FactsServiceStub, tenant: UUID
) -> None:
    campaigns = [str(uuid4()) for _ in range(20)]
    loads = [load_request(tenant, *(cell(c, sent=at) for c in campaigns), at=at) for at in range(1, 13)]
    replies = await asyncio.gather(*(olap.call(stub.LoadDay, each) for each in loads))
    assert not replies[-1].stale
    assert {await sent(olap, tenant, c) for c in campaigns} == {12}


async def test_a_repeat_gets_the_first_answer_another_body_is_refused(
    olap: TierClient, stub: FactsServiceStub, tenant: UUID
) -> None:
    campaign = str(uuid4())
    request = load_request(tenant, cell(campaign, sent=5))
    first = await olap.call(stub.LoadDay, request)
    await olap.call(stub.LoadDay, load_request(tenant, cell(campaign, sent=6), at=1))
    assert await olap.call(stub.LoadDay, request) == first
    assert await sent(olap, tenant, campaign) == 6
    request.content_bytes = 1
    answer = await refusal(olap, stub.LoadDay, request)
    assert (answer.code, answer.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


@pytest.mark.parametrize("day", ["2031-02-30", "0000-01-01", "2031-13-01"])
async def test_a_day_must_be_one(olap: TierClient, stub: FactsServiceStub, tenant: UUID, day: str) -> None:
    answer = await refusal(olap, stub.LoadDay, load_request(tenant, day=day))
    assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["day"])


async def test_bad_loads_name_their_fields(olap: TierClient, stub: FactsServiceStub, tenant: UUID) -> None:
    campaign = str(uuid4())
    twice = load_request(tenant, cell(campaign, sent=1), cell(campaign.upper(), sent=2))
    assert (await refusal(olap, stub.LoadDay, twice)).fields == ["cells[1]"]
    negative = load_request(tenant, cell(campaign, sent=-1), day="17.5.2031", request_id="x")
    assert set((await refusal(olap, stub.LoadDay, negative)).fields) == {"cells[0].measures.sent", "day", "request_id"}
    ahead = load_request(tenant, at=3600 + 3600)
    assert (await refusal(olap, stub.LoadDay, ahead)).fields == ["computed_at"]
    endless = load_request(tenant, computed_at=Timestamp(seconds=2**62))
    assert (await refusal(olap, stub.LoadDay, endless)).fields == ["computed_at"]
    huge = load_request(tenant, cell(campaign, sent=2**62))
    assert (await refusal(olap, stub.LoadDay, huge)).fields == ["cells[0].measures.sent"]


@pytest.mark.parametrize("day", ["1999-12-31", "2040-02-29"])
async def test_a_month_without_a_partition_is_loaded_all_the_same(
    olap: TierClient, stub: FactsServiceStub, tenant: UUID, day: str
) -> None:
    campaign = str(uuid4())
    await olap.call(stub.LoadDay, load_request(tenant, cell(campaign, sent=3), day=day))
    request = report_pb.GetCampaignReportRequest(tenant_id=str(tenant), campaign_id=campaign, span=span(day, day))
    reply = await olap.call(ReportServiceStub(olap.channel).GetCampaignReport, request)
    assert [(d.day, d.measures.sent) for d in reply.days] == [(day, 3)]


async def test_a_watermark_only_moves_forward(olap: TierClient, stub: FactsServiceStub, tenant: UUID) -> None:
    get = pb.GetWatermarkRequest(tenant_id=str(tenant), source="oltp.ledger")
    assert not (await olap.call(stub.GetWatermark, get)).HasField("watermark")
    request = watermark_request(tenant, at=10, cursor="ten")
    committed = (await olap.call(stub.CommitWatermark, request)).watermark
    assert (committed.source, committed.cursor, committed.data_through) == ("oltp.ledger", "ten", counted(10))
    older = (await olap.call(stub.CommitWatermark, watermark_request(tenant, at=9, cursor="nine"))).watermark
    assert older == committed
    newer = (await olap.call(stub.CommitWatermark, watermark_request(tenant, at=11, cursor="eleven"))).watermark
    assert (await olap.call(stub.GetWatermark, get)).watermark == newer
    assert newer.cursor == "eleven"
    assert (await olap.call(stub.CommitWatermark, request)).watermark == committed
    assert (await olap.call(stub.GetWatermark, get)).watermark == newer
    other = pb.GetWatermarkRequest(tenant_id=str(tenant), source="another")
    assert not (await olap.call(stub.GetWatermark, other)).HasField("watermark")


async def test_bad_watermarks_are_refused(olap: TierClient, stub: FactsServiceStub, tenant: UUID) -> None:
    request = watermark_request(tenant)
    await olap.call(stub.CommitWatermark, request)
    request.cursor = "2"
    assert (await refusal(olap, stub.CommitWatermark, request)).reason == "REQUEST_ID_REUSED"
    nameless = watermark_request(tenant, source="", data_through=None)
    assert set((await refusal(olap, stub.CommitWatermark, nameless)).fields) == {"source", "data_through"}
    ahead = watermark_request(tenant, at=3600 + 3600)
    assert (await refusal(olap, stub.CommitWatermark, ahead)).fields == ["data_through"]
    get = pb.GetWatermarkRequest(tenant_id=str(tenant))
    assert (await refusal(olap, stub.GetWatermark, get)).fields == ["source"]


async def test_nobody_loads_for_another(olap: TierClient, stub: FactsServiceStub, tenant: UUID) -> None:
    requests = [
        (stub.LoadDay, load_request(tenant)),
        (stub.CommitWatermark, watermark_request(tenant)),
        (stub.GetWatermark, pb.GetWatermarkRequest(tenant_id=str(tenant), source="oltp.ledger")),
    ]
    for method, request in requests:
        anonymous = await refusal(olap, method, request, anonymous=True)
        assert (anonymous.code, anonymous.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
        stranger = await refusal(olap, method, request, tenant=uuid4())
        assert (stranger.code, stranger.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_MISMATCH")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
async def test_what_stands_of_a_day_is_listed_table_by_table(
    olap: TierClient, stub: FactsServiceStub, tenant: UUID, size: int
) -> None:
    campaign, step, others, mailbox = str(uuid4()), str(uuid4()), str(uuid4()), str(uuid4())
    # Of no campaign; of one step from two mailboxes; of another.
    cells = (
        cell(sent=1),
        cell(campaign, step, sent=2),
        cell(campaign, step, mailbox, sent=3),
        cell(campaign, others, sent=4),
    )
    await olap.call(stub.LoadDay, load_request(tenant, *cells))
    await olap.call(stub.LoadDay, load_request(tenant, cell(sent=9), day="2031-05-18"))
    request = pb.ListDayFactsRequest(tenant_id=str(tenant), day=DAY, page_size=size)
    found: list[tuple[Any, ...]] = []
    while True:
        reply = await olap.call(stub.ListDayFacts, request)
        assert len(reply.facts) <= size
        found += [(f.table, f.campaign_id, f.step_id, f.email_account_id, f.measures.sent) for f in reply.facts]
        if not reply.next_page_token:
            break
        request.page_token = reply.next_page_token
    steps = sorted([(2, campaign, step, "", 5), (2, campaign, others, "", 4)])
    assert found == [
        (1, "", "", "", 1), (1, campaign, "", "", 9), (2, "", "", "", 1), *steps, (3, "", "", "", 7), (3, "", "", mailbox, 3),
    ]  # fmt: skip
