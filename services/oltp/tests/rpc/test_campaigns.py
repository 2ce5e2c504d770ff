"""CampaignService beyond the standard methods: the state machine, its recipients and its end."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from services.oltp.tests.rows import (
    CampaignScene,
    create_request,
    new_campaign,
    new_email,
    new_lead,
    new_suppression,
    owed,
    refuse_others,
    send,
    set_scene,
    tell,
    write_emails,
)

from penguin.common.v1 import errors_pb2, mutation_pb2
from penguin.oltp.v1 import campaign_service_pb2 as pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import suppression_service_pb2 as suppression_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.lead_service_pb2_grpc import LeadServiceStub
from penguin.oltp.v1.suppression_service_pb2_grpc import SuppressionServiceStub
from penguin_chassis.pool import Database
from penguin_testkit.calling import Answer, Refused, TierClient

MOVES = ["Start", "Pause", "Cancel", "Complete", "Seal"]


async def move(oltp: TierClient, owner: UUID, verb: str, campaign: str, request_id: str = "") -> pb.Campaign:
    """Call one of the transitions."""
    request = getattr(pb, f"{verb}CampaignRequest")(
        tenant_id=str(owner), campaign_id=campaign, request_id=request_id or str(uuid4())
    )
    reply = await oltp.call(getattr(CampaignServiceStub(oltp.channel), f"{verb}Campaign"), request)
    campaign_now: pb.Campaign = reply.campaign
    return campaign_now


async def step_of_saga(
    oltp: TierClient, owner: UUID, verb: str, campaign: str, saga: str, *, undo: bool, stands: bool = False
) -> pb.Campaign:
    """Call one of the transitions as a saga's step: what its name does, or as what undoes another's."""
    operation = mutation_pb2.STEP_OPERATION_COMPENSATION if undo else mutation_pb2.STEP_OPERATION_ACTION
    request = getattr(pb, f"{verb}CampaignRequest")(
        tenant_id=str(owner), campaign_id=campaign, request_id=str(uuid4()),
        saga_step=mutation_pb2.SagaStep(saga_id=saga, step="move", operation=operation, refusal_stands=stands),
    )  # fmt: skip
    reply = await oltp.call(getattr(CampaignServiceStub(oltp.channel), f"{verb}Campaign"), request)
    campaign_now: pb.Campaign = reply.campaign
    return campaign_now


async def draft(oltp: TierClient, tenant: UUID) -> str:
    """A campaign not started."""
    campaign = new_campaign()
    request = pb.CreateCampaignRequest(tenant_id=str(tenant), campaign=campaign)
    await oltp.call(CampaignServiceStub(oltp.channel).CreateCampaign, request)
    return campaign.id


async def pending(
    oltp: TierClient, tenant: UUID, scene: CampaignScene, **fields: Any
) -> pb.ListPendingRecipientsResponse:
    """A page of recipients."""
    request = pb.ListPendingRecipientsRequest(
        tenant_id=str(tenant), campaign_id=scene.campaign, step_id=scene.step, **fields
    )
    reply: pb.ListPendingRecipientsResponse = await oltp.call(
        CampaignServiceStub(oltp.channel).ListPendingRecipients, request
    )
    return reply


async def test_a_campaign_runs_pauses_and_runs_again(oltp: TierClient, tenant: UUID) -> None:
    campaign = await draft(oltp, tenant)
    started = await move(oltp, tenant, "Start", campaign)
    assert started.status == pb.CAMPAIGN_STATUS_RUNNING
    assert started.HasField("launched_at")
    assert await move(oltp, tenant, "Start", campaign) == started
    paused = await move(oltp, tenant, "Pause", campaign)
    assert (paused.status, paused.etag) == (pb.CAMPAIGN_STATUS_PAUSED, "3")
    assert await move(oltp, tenant, "Pause", campaign) == paused
    again = await move(oltp, tenant, "Start", campaign)
    assert (again.status, again.launched_at) == (pb.CAMPAIGN_STATUS_RUNNING, started.launched_at)


async def test_what_the_state_forbids_is_refused_and_says_so(oltp: TierClient, tenant: UUID) -> None:
    drafted, cancelled = await draft(oltp, tenant), await draft(oltp, tenant)
    await move(oltp, tenant, "Cancel", cancelled)
    for verb, campaign, state in [
        ("Pause", drafted, "draft"),
        ("Seal", drafted, "draft"),
        ("Complete", drafted, "draft"),
        ("Start", cancelled, "cancelled"),
        ("Complete", cancelled, "cancelled"),
    ]:
        with pytest.raises(Refused) as refused:
            await move(oltp, tenant, verb, campaign)
        answer = refused.value.answer
        assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STATE_CONFLICT")
        assert answer.metadata["state"] == state


async def test_a_move_refused_for_now_may_be_asked_again(oltp: TierClient, tenant: UUID) -> None:
    campaign, request_id = await draft(oltp, tenant), str(uuid4())
    with pytest.raises(Refused):
        await move(oltp, tenant, "Seal", campaign, request_id)
    await move(oltp, tenant, "Start", campaign)
    sealed = await move(oltp, tenant, "Seal", campaign, request_id)
    assert sealed.HasField("sealed_at")
    assert await move(oltp, tenant, "Seal", campaign, request_id) == sealed
    with pytest.raises(Refused) as refused:
        await move(oltp, tenant, "Pause", campaign, request_id)
    assert refused.value.answer.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("verb", MOVES)
async def test_moves_are_for_the_campaigns_own_tenant(
    verb: str, oltp: TierClient, tenant: UUID, stranger: UUID
) -> None:
    campaign = await draft(oltp, tenant)
    method = getattr(CampaignServiceStub(oltp.channel), f"{verb}Campaign")
    request = getattr(pb, f"{verb}CampaignRequest")(
        tenant_id=str(tenant), campaign_id=campaign, request_id=str(uuid4())
    )
    await refuse_others(oltp, method, request, stranger)
    with pytest.raises(Refused) as refused:
        await move(oltp, stranger, verb, campaign)
    assert refused.value.answer.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(Refused) as refused:
        await move(oltp, tenant, verb, "x")
    assert refused.value.answer.fields == ["campaign_id"]


async def test_a_campaign_completes_once_all_of_it_is_through(oltp: TierClient, tenant: UUID, db: Database) -> None:
    scene = await set_scene(oltp, tenant)
    first, second = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, first)
    with pytest.raises(Refused) as refused:
        await move(oltp, tenant, "Complete", scene.campaign)
    assert refused.value.answer.metadata == {"resource": "campaign", "state": "running", "open_emails": "1"}
    # An unknown outcome is nobody's to wait for.
    await send(oltp, tenant, second, email_pb.ATTEMPT_OUTCOME_UNKNOWN)
    with pytest.raises(Refused) as refused:
        await move(oltp, tenant, "Complete", scene.campaign)
    assert refused.value.answer.metadata["open_emails"] == "0"
    await move(oltp, tenant, "Seal", scene.campaign)
    completed = await move(oltp, tenant, "Complete", scene.campaign)
    assert completed.status == pb.CAMPAIGN_STATUS_COMPLETED
    assert completed.HasField("completed_at")
    assert await move(oltp, tenant, "Complete", scene.campaign) == completed
    told = [payload for _, kind, payload in await owed(db, tenant) if kind == "create_notifications"]
    assert len(told) == 1
    (notification,) = told[0]["notifications"]
    assert (notification["type"], notification["subject_ref"]) == ("campaign.completed", scene.campaign)
    assert scene.campaign in notification["request_key"]


async def test_cancelling_takes_back_what_is_queued(oltp: TierClient, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant)
    sent, _ = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, sent)
    cancelled = await move(oltp, tenant, "Cancel", scene.campaign)
    assert cancelled.status == pb.CAMPAIGN_STATUS_CANCELLED
    assert await move(oltp, tenant, "Cancel", scene.campaign) == cancelled
    progress = await oltp.call(
        CampaignServiceStub(oltp.channel).GetCampaignProgress,
        pb.GetCampaignProgressRequest(tenant_id=str(tenant), campaign_id=scene.campaign),
    )
    counts = {each.status: each.count for each in progress.counts}
    assert counts == {email_pb.EMAIL_STATUS_SENT: 1, email_pb.EMAIL_STATUS_CANCELLED: 1}


async def test_very_many_are_taken_back_in_turns_and_none_is_sent_meanwhile(
    oltp: TierClient, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penguin_oltp.store.campaigns.TAKEN_BACK", 2)
    scene = await set_scene(oltp, tenant, leads=5)
    emails = await write_emails(oltp, tenant, scene, scene.leads)
    monkeypatch.setattr("penguin_oltp.servicers.campaigns.RESERVE_S", 1000.0)
    await move(oltp, tenant, "Cancel", scene.campaign)
    await send(oltp, tenant, emails[0])
    stub = CampaignServiceStub(oltp.channel)
    request = pb.GetCampaignProgressRequest(tenant_id=str(tenant), campaign_id=scene.campaign)
    counts = (await oltp.call(stub.GetCampaignProgress, request)).counts
    assert {c.status: c.count for c in counts} == {
        email_pb.EMAIL_STATUS_CANCELLED: 1,
        email_pb.EMAIL_STATUS_QUEUED: 4,
    }
    monkeypatch.setattr("penguin_oltp.servicers.campaigns.RESERVE_S", 1.0)
    await move(oltp, tenant, "Cancel", scene.campaign)
    counts = (await oltp.call(stub.GetCampaignProgress, request)).counts
    assert {c.status: c.count for c in counts} == {email_pb.EMAIL_STATUS_CANCELLED: 5}


@pytest.mark.parametrize("verb", ["Cancel", "Complete"])
async def test_a_campaign_that_has_ended_gets_no_more_emails(verb: str, oltp: TierClient, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant)
    await move(oltp, tenant, "Seal", scene.campaign)
    await move(oltp, tenant, verb, scene.campaign)
    late = new_email(campaign_id=scene.campaign, step_id=scene.step, lead_id=scene.leads[0])
    reply = await oltp.call(EmailServiceStub(oltp.channel).BatchCreateEmails, create_request(tenant, late, new_email()))
    assert reply.results[0].error.reason == errors_pb2.ERROR_REASON_STATE_CONFLICT
    assert reply.results[1].WhichOneof("outcome") == "email"


async def test_pending_are_the_active_the_unwritten_and_the_unsuppressed(oltp: TierClient, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant, leads=3)
    audience = (await pending(oltp, tenant, scene)).leads[0].list
    await write_emails(oltp, tenant, scene, scene.leads[:1])
    replied = new_lead(list=audience, status=lead_pb.LEAD_STATUS_REPLIED)
    barred = new_lead(list=audience, email="Barred@Example.com")
    elsewhere = new_lead(list="elsewhere")
    batch = lead_pb.BatchCreateLeadsRequest(tenant_id=str(tenant), leads=[replied, barred, elsewhere])
    await oltp.call(LeadServiceStub(oltp.channel).BatchCreateLeads, batch)
    suppress = suppression_pb.CreateSuppressionRequest(
        tenant_id=str(tenant), suppression=new_suppression(address="barreD@example.com")
    )
    await oltp.call(SuppressionServiceStub(oltp.channel).CreateSuppression, suppress)
    first = await pending(oltp, tenant, scene, page_size=1)
    rest = await pending(oltp, tenant, scene, page_size=1, page_token=first.next_page_token)
    assert [lead.id for lead in (*first.leads, *rest.leads)] == scene.leads[1:]
    last = await pending(oltp, tenant, scene, page_size=1, page_token=rest.next_page_token)
    assert (len(last.leads), last.next_page_token) == (0, "")


async def test_a_long_stretch_without_recipients_is_paged_through(
    oltp: TierClient, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penguin_oltp.store.campaigns.STRETCH", 3)
    scene = await set_scene(oltp, tenant, leads=8)
    await write_emails(oltp, tenant, scene, scene.leads[:7])
    seen: list[str] = []
    pages = [""]
    while pages[-1] or len(pages) == 1:
        page = await pending(oltp, tenant, scene, page_size=2, page_token=pages[-1])
        seen += [lead.id for lead in page.leads]
        pages.append(page.next_page_token)
    assert seen == scene.leads[7:]
    assert len(pages) == 4


async def test_only_a_running_campaign_has_recipients(oltp: TierClient, tenant: UUID, stranger: UUID) -> None:
    scene = await set_scene(oltp, tenant, start=False)
    with pytest.raises(Refused) as refused:
        await pending(oltp, tenant, scene)
    assert refused.value.answer.metadata == {"resource": "campaign", "state": "draft"}
    await move(oltp, tenant, "Start", scene.campaign)
    right = {"tenant_id": str(tenant), "campaign_id": scene.campaign, "step_id": scene.step}
    method = CampaignServiceStub(oltp.channel).ListPendingRecipients
    for wrong, resource in [
        ({"campaign_id": str(uuid4())}, "campaign"),
        ({"step_id": str(uuid4())}, "sequence_step"),
        ({"tenant_id": str(stranger)}, "campaign"),
    ]:
        named: dict[str, Any] = right | wrong
        with pytest.raises(Refused) as refused:
            await oltp.call(method, pb.ListPendingRecipientsRequest(**named))
        assert refused.value.answer.metadata["resource"] == resource
    named = dict(right)
    await refuse_others(oltp, method, pb.ListPendingRecipientsRequest(**named), stranger)


async def test_progress_counts_each_email_once_per_kind(oltp: TierClient, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant, leads=3)
    first, second, _ = await write_emails(oltp, tenant, scene, scene.leads)
    await send(oltp, tenant, first)
    await send(oltp, tenant, second)
    opened, clicked = email_pb.EMAIL_EVENT_KIND_OPENED, email_pb.EMAIL_EVENT_KIND_CLICKED
    await tell(oltp, tenant, first, opened, opened, clicked)
    await tell(oltp, tenant, second, opened)
    stub = CampaignServiceStub(oltp.channel)
    request = pb.GetCampaignProgressRequest(tenant_id=str(tenant), campaign_id=scene.campaign)
    progress = await oltp.call(stub.GetCampaignProgress, request)
    assert {c.status: c.count for c in progress.counts} == {
        email_pb.EMAIL_STATUS_SENT: 2,
        email_pb.EMAIL_STATUS_QUEUED: 1,
    }
    assert {e.kind: e.count for e in progress.events} == {opened: 2, clicked: 1}


async def test_progress_is_the_tenants_own(oltp: TierClient, tenant: UUID, stranger: UUID) -> None:
    campaign, method = await draft(oltp, tenant), CampaignServiceStub(oltp.channel).GetCampaignProgress
    request = pb.GetCampaignProgressRequest(tenant_id=str(tenant), campaign_id=campaign)
    await refuse_others(oltp, method, request, stranger)
    for asked, code in [
        (pb.GetCampaignProgressRequest(tenant_id=str(stranger), campaign_id=campaign), grpc.StatusCode.NOT_FOUND),
        (pb.GetCampaignProgressRequest(tenant_id=str(tenant)), grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        with pytest.raises(Refused) as refused:
            await oltp.call(method, asked)
        assert refused.value.answer.code is code


async def test_lists_by_status_and_the_audience_is_fixed_in_the_end(oltp: TierClient, tenant: UUID) -> None:
    drafted, cancelled = await draft(oltp, tenant), await draft(oltp, tenant)
    await move(oltp, tenant, "Cancel", cancelled)
    stub = CampaignServiceStub(oltp.channel)
    request = pb.ListCampaignsRequest(tenant_id=str(tenant), status=pb.CAMPAIGN_STATUS_DRAFT)
    assert [c.id for c in (await oltp.call(stub.ListCampaigns, request)).campaigns] == [drafted]
    update = pb.UpdateCampaignRequest(
        tenant_id=str(tenant), campaign_id=cancelled, request_id=str(uuid4()),
        campaign=pb.CampaignUpdate(audience_list="other"), update_mask=FieldMask(paths=["audience_list"]),
    )  # fmt: skip
    with pytest.raises(Refused) as refused:
        await oltp.call(stub.UpdateCampaign, update)
    assert refused.value.answer.reason == "STATE_CONFLICT"


async def test_a_campaign_with_steps_stays(oltp: TierClient, tenant: UUID) -> None:
    scene = await set_scene(oltp, tenant)
    request = pb.DeleteCampaignRequest(tenant_id=str(tenant), campaign_id=scene.campaign, request_id=str(uuid4()))
    with pytest.raises(Refused) as refused:
        await oltp.call(CampaignServiceStub(oltp.channel).DeleteCampaign, request)
    answer = refused.value.answer
    assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STILL_REFERENCED")


async def test_a_sagas_move_that_was_refused_for_good_is_not_made_by_a_late_copy(
    oltp: TierClient, tenant: UUID
) -> None:
    campaign, saga = await draft(oltp, tenant), str(uuid4())

    async def refused_pause() -> Answer:
        with pytest.raises(Refused) as refused:
            await step_of_saga(oltp, tenant, "Pause", campaign, saga, undo=False, stands=True)
        return refused.value.answer

    first = await refused_pause()
    assert (first.reason, first.metadata["state"]) == ("STATE_CONFLICT", "draft")
    # A launch that read of a pause here would leave the rest of the recipients to whoever resumes it: nobody would.
    await move(oltp, tenant, "Start", campaign)
    assert await refused_pause() == first
    undone = await step_of_saga(oltp, tenant, "Start", campaign, saga, undo=True)
    assert undone.status == pb.CAMPAIGN_STATUS_RUNNING
    assert await refused_pause() == first
    request = pb.GetCampaignRequest(tenant_id=str(tenant), campaign_id=campaign)
    now = (await oltp.call(CampaignServiceStub(oltp.channel).GetCampaign, request)).campaign
    assert (now.status, now.etag) == (pb.CAMPAIGN_STATUS_RUNNING, undone.etag)


async def test_a_sagas_move_is_undone_where_it_was_made_and_barred_where_it_was_not(
    oltp: TierClient, tenant: UUID
) -> None:
    made, never = await draft(oltp, tenant), await draft(oltp, tenant)
    saga = str(uuid4())
    assert (await step_of_saga(oltp, tenant, "Start", made, saga, undo=False)).status == pb.CAMPAIGN_STATUS_RUNNING
    for _ in range(2):
        undone = await step_of_saga(oltp, tenant, "Pause", made, saga, undo=True)
        assert undone.status == pb.CAMPAIGN_STATUS_PAUSED
    # Undone before it came: nothing is to be undone, whatever its state, and it never comes.
    saga = str(uuid4())
    assert (await step_of_saga(oltp, tenant, "Pause", never, saga, undo=True)).status == pb.CAMPAIGN_STATUS_DRAFT
    with pytest.raises(Refused) as refused:
        await step_of_saga(oltp, tenant, "Start", never, saga, undo=False)
    assert refused.value.answer.reason == "SAGA_COMPENSATED"
    # What has ended meanwhile stays so.
    saga = str(uuid4())
    await step_of_saga(oltp, tenant, "Start", never, saga, undo=False)
    await move(oltp, tenant, "Cancel", never)
    ended = await step_of_saga(oltp, tenant, "Pause", never, saga, undo=True)
    assert ended.status == pb.CAMPAIGN_STATUS_CANCELLED
