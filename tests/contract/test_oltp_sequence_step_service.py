"""SequenceStepService: every method, by its contract: the steps of campaigns."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from services.oltp.tests.rows import new_campaign, new_step
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import sequence_step_service_pb2 as pb


async def new(world: World) -> Any:
    campaign = new_campaign()
    request = campaign_pb.CreateCampaignRequest(tenant_id=str(world.tenant), campaign=campaign)
    await world.call("penguin.oltp.v1.CampaignService/CreateCampaign", request)
    return new_step(campaign_id=campaign.id)


RESOURCE = Resource(
    pb,
    "SequenceStep",
    "SequenceSteps",
    new,
    bad=("step_order", lambda item: setattr(item, "step_order", 101)),
    update={"subject_override": "Other", "step_order": 7},
    foreign="REFERENCE_MISSING",
    refilter=lambda r: setattr(r, "campaign_id", str(uuid4())),
)


class TestSequenceStepService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = standard(RESOURCE)
