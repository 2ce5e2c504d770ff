"""Runs "campaign.complete": ends a campaign whose last email has left. OLTP itself owes the notification."""

from __future__ import annotations

import random

from penguin.oltp.v1 import campaign_service_pb2 as pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import CLOSED, TierError
from penguin_worker.jobs import Job, Reject, Snooze

AGAIN_MIN_S = 1.0
AGAIN_MAX_S = 5.0


class CampaignCompletion:
    """The handler of "campaign.complete"."""

    def __init__(self, oltp: Tier) -> None:
        self._oltp = oltp

    async def handle(self, job: Job) -> None:
        """Complete the campaign, unless its tenant is closed; raises Snooze while emails of it are on their way."""
        campaign_id = job.uuid("campaign_id")
        request = pb.CompleteCampaignRequest(
            tenant_id=str(job.tenant_id),
            campaign_id=str(campaign_id),
            # Each try is an act of its own: a refusal must not be replayed once the campaign can be completed.
            request_id=str(keys.request_id("complete", job.id, job.lease_token)),
        )
        try:
            await self._oltp.call(self._oltp.stub(CampaignServiceStub).CompleteCampaign, request)
        except TierError as error:
            if error.reason == "STATE_CONFLICT":
                state = error.metadata.get("state", "")
                if state in {"completed", "cancelled"}:
                    return
                delay = min(AGAIN_MIN_S * 2 ** min(job.snoozes, 10), AGAIN_MAX_S)
                raise Snooze("campaign_open", delay * random.uniform(0.75, 1.0)) from None
            if error.reason == CLOSED:
                # In hand when the close cancelled the others: nothing of the tenant's is completed any more.
                return
            if error.reason == "NOT_FOUND":
                raise Reject("campaign_missing") from None
            raise
