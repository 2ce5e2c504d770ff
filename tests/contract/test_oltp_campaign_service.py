"""CampaignService: every method, by its contract: campaigns, their state, and what the ledger says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from services.oltp.tests.rows import CampaignScene, new_campaign, set_scene, write_emails
from tests.contract.cases import Case, Listing, Mutation, equal
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import campaign_service_pb2 as pb
from penguin.oltp.v1 import email_service_pb2 as email_pb


async def new(world: World) -> Any:
    return new_campaign()


RESOURCE = Resource(
    pb,
    "Campaign",
    "Campaigns",
    new,
    bad=("audience_list", lambda item: item.ClearField("audience_list")),
    update={"name": "Other", "audience_list": "autumn"},
    refilter=lambda r: setattr(r, "status", pb.CAMPAIGN_STATUS_DRAFT),
)


async def scene(world: World, leads: int = 2, *, start: bool = True) -> CampaignScene:
    """A campaign with all it needs."""
    return await set_scene(world.tier, world.tenant, leads, start=start)


def draft(world: World) -> Any:
    return scene(world, start=False)


def running(world: World) -> Any:
    return scene(world)


async def sealed(world: World) -> CampaignScene:
    """A campaign that nobody is to get: it may complete at once."""
    campaign = await scene(world, leads=0)
    request = RESOURCE.message("SealCampaignRequest", world, campaign_id=campaign.campaign, request_id=str(uuid4()))
    await world.call(f"{RESOURCE.service}/SealCampaign", request)
    return campaign


def move(verb: str, before: Callable[[World], Any], check: Callable[[Any], bool]) -> Case:
    """A method that moves a campaign from one state to the next."""

    async def build(world: World) -> Any:
        campaign = (await before(world)).campaign
        return RESOURCE.message(f"{verb}CampaignRequest", world, campaign_id=campaign, request_id=str(uuid4()))

    def moved(request: Any, reply: Any) -> None:
        assert reply.campaign.id == request.campaign_id
        assert check(reply.campaign), reply.campaign

    return Case(
        f"{verb}Campaign",
        build,
        moved,
        ("campaign_id", lambda r: setattr(r, "campaign_id", "x")),
        RESOURCE.unknown,
        mutation=Mutation(RESOURCE.listed, vary=RESOURCE.unknown),
    )


async def pending(world: World) -> Any:
    campaign = await scene(world, leads=5)
    return RESOURCE.message("ListPendingRecipientsRequest", world, campaign_id=campaign.campaign, step_id=campaign.step)


async def progress(world: World) -> Any:
    campaign = await scene(world)
    await write_emails(world.tier, world.tenant, campaign, campaign.leads)
    return RESOURCE.message("GetCampaignProgressRequest", world, campaign_id=campaign.campaign)


class TestCampaignService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = (
        *standard(RESOURCE),
        move("Start", draft, lambda campaign: campaign.status == pb.CAMPAIGN_STATUS_RUNNING),
        move("Pause", running, lambda campaign: campaign.status == pb.CAMPAIGN_STATUS_PAUSED),
        move("Cancel", running, lambda campaign: campaign.status == pb.CAMPAIGN_STATUS_CANCELLED),
        move("Seal", running, lambda campaign: campaign.HasField("sealed_at")),
        move("Complete", sealed, lambda campaign: campaign.status == pb.CAMPAIGN_STATUS_COMPLETED),
        Case(
            "ListPendingRecipients",
            pending,
            lambda request, reply: equal(len(reply.leads), 5),
            ("step_id", lambda r: setattr(r, "step_id", "x")),
            RESOURCE.unknown,
            listing=Listing("leads", 5, lambda r: setattr(r, "step_id", str(uuid4()))),
        ),
        Case(
            "GetCampaignProgress",
            progress,
            lambda request, reply: equal(
                [(c.status, c.count) for c in reply.counts], [(email_pb.EMAIL_STATUS_QUEUED, 2)]
            ),
            ("campaign_id", lambda r: setattr(r, "campaign_id", "x")),
            RESOURCE.unknown,
        ),
    )
