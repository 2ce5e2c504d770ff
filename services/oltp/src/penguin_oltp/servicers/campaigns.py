"""CampaignService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import campaign_service_pb2 as pb
from penguin.oltp.v1 import campaign_service_pb2_grpc
from penguin_chassis import calls
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_chassis.wire import word
from penguin_oltp.domain import campaigns
from penguin_oltp.servicers import campaigns_wire as wire
from penguin_oltp.servicers.leads_wire import lead
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.campaigns import CampaignStore

PENDING_PAGE = 500
# Left of the call once no further emails are taken back (seconds).
RESERVE_S = 3.0


class CampaignServicer(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Campaigns and their state."""

    def __init__(self, db: Database) -> None:
        self._campaigns = CampaignStore(db)

    async def CreateCampaign(self, request: pb.CreateCampaignRequest, context: Any) -> pb.CreateCampaignResponse:
        at = now()
        campaign = wire.new_campaign(UUID(request.tenant_id), request.campaign, at)
        created = await self._campaigns.create(step_of(request, request.campaign, at=at), campaign)
        return pb.CreateCampaignResponse(campaign=wire.campaign(created))

    async def GetCampaign(self, request: pb.GetCampaignRequest, context: Any) -> pb.GetCampaignResponse:
        found = await self._campaigns.get(UUID(request.tenant_id), UUID(request.campaign_id))
        return pb.GetCampaignResponse(campaign=wire.campaign(found))

    async def ListCampaigns(self, request: pb.ListCampaignsRequest, context: Any) -> pb.ListCampaignsResponse:
        page = Page(request)
        found = await self._campaigns.list_page(
            UUID(request.tenant_id), page.after, page.limit, status=word(pb.CampaignStatus, request.status)
        )
        return pb.ListCampaignsResponse(
            campaigns=map(wire.campaign, page.shown(found)), next_page_token=page.next(found)
        )

    async def UpdateCampaign(self, request: pb.UpdateCampaignRequest, context: Any) -> pb.UpdateCampaignResponse:
        changes = wire.changed_campaign(request)
        updated = await self._campaigns.update(step_of(request), UUID(request.campaign_id), request.etag, changes)
        return pb.UpdateCampaignResponse(campaign=wire.campaign(updated))

    async def DeleteCampaign(self, request: pb.DeleteCampaignRequest, context: Any) -> pb.DeleteCampaignResponse:
        await self._campaigns.delete(step_of(request), UUID(request.campaign_id), request.etag)
        return pb.DeleteCampaignResponse()

    async def StartCampaign(self, request: pb.StartCampaignRequest, context: Any) -> pb.StartCampaignResponse:
        moved = await self._campaigns.move(step_of(request), UUID(request.campaign_id), campaigns.start)
        return pb.StartCampaignResponse(campaign=wire.campaign(moved))

    async def PauseCampaign(self, request: pb.PauseCampaignRequest, context: Any) -> pb.PauseCampaignResponse:
        moved = await self._campaigns.move(step_of(request), UUID(request.campaign_id), campaigns.pause)
        return pb.PauseCampaignResponse(campaign=wire.campaign(moved))

    async def SealCampaign(self, request: pb.SealCampaignRequest, context: Any) -> pb.SealCampaignResponse:
        moved = await self._campaigns.seal(step_of(request), UUID(request.campaign_id))
        return pb.SealCampaignResponse(campaign=wire.campaign(moved))

    async def CancelCampaign(self, request: pb.CancelCampaignRequest, context: Any) -> pb.CancelCampaignResponse:
        at, tenant_id, campaign_id = now(), UUID(request.tenant_id), UUID(request.campaign_id)
        moved = await self._campaigns.cancel(step_of(request, at=at), campaign_id)
        # It has ended, and no email of it is claimed any more; how many say so already is a matter of the call's time. What undoes
        # a cancel that was never made leaves it as it is.
        ended = moved.status == campaigns.CANCELLED
        while ended and calls.remaining() > RESERVE_S and await self._campaigns.take_back(tenant_id, campaign_id, at):
            pass
        return pb.CancelCampaignResponse(campaign=wire.campaign(moved))

    async def CompleteCampaign(self, request: pb.CompleteCampaignRequest, context: Any) -> pb.CompleteCampaignResponse:
        moved = await self._campaigns.complete(step_of(request), UUID(request.campaign_id))
        return pb.CompleteCampaignResponse(campaign=wire.campaign(moved))

    async def ListPendingRecipients(
        self, request: pb.ListPendingRecipientsRequest, context: Any
    ) -> pb.ListPendingRecipientsResponse:
        page = Page(request, PENDING_PAGE)
        found = await self._campaigns.pending(
            UUID(request.tenant_id), UUID(request.campaign_id), UUID(request.step_id), page.after, page.size
        )
        return pb.ListPendingRecipientsResponse(leads=map(lead, found.leads), next_page_token=page.token(found.after))

    async def GetCampaignProgress(
        self, request: pb.GetCampaignProgressRequest, context: Any
    ) -> pb.GetCampaignProgressResponse:
        found = await self._campaigns.progress(UUID(request.tenant_id), UUID(request.campaign_id))
        return wire.progress(found)
