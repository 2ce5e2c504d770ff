"""Campaigns across tiers: created, and launched, paused, resumed and cancelled as sagas; launching twice sends once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import sequence_step_service_pb2 as step_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.sequence_step_service_pb2_grpc import SequenceStepServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.launching import DEADLINE_S, LaunchError
from penguin_orchestrator.messages import Refusal
from penguin_orchestrator.sagas.carrying import Sagas
from penguin_orchestrator.sagas.journal import Held

__all__ = ["Campaigns", "Launch", "LaunchError"]
# As what a campaign stands against a move, and the step that moves it.
_AGAINST = {
    "campaign.launch": (campaign_pb.CAMPAIGN_STATUS_PAUSED, "start"),
    "campaign.resume": (campaign_pb.CAMPAIGN_STATUS_PAUSED, "start"),
    "campaign.pause": (campaign_pb.CAMPAIGN_STATUS_RUNNING, "pause"),
}


@dataclass
class Launch:
    """What a launch did: emails created now, and what was refused (the first 100 in full). `stopped`: the campaign was
    paused or cancelled before everybody had one."""

    campaign_id: UUID
    step_id: UUID
    created: int = 0
    refused: int = 0
    refusals: list[tuple[UUID, Refusal]] = field(default_factory=list)
    stopped: bool = False


class Campaigns:
    """Brings campaigns into being and moves them."""

    def __init__(self, oltp: Tier, sagas: Sagas) -> None:
        self._oltp = oltp
        self._sagas = sagas

    async def create(self, tenant_id: UUID, name: str, audience: str, *, template_id: UUID, mailbox_id: UUID) -> UUID:
        """A draft campaign with one email step."""
        campaign = keys.new_id()
        request = campaign_pb.CreateCampaignRequest(
            tenant_id=str(tenant_id),
            campaign=campaign_pb.NewCampaign(
                request_id=str(uuid4()), id=str(campaign), name=name, audience_list=audience
            ),
        )
        await self._oltp.insist(self._oltp.stub(CampaignServiceStub).CreateCampaign, request, deadline_s=DEADLINE_S)
        step = step_pb.CreateSequenceStepRequest(
            tenant_id=str(tenant_id),
            sequence_step=step_pb.NewSequenceStep(
                request_id=str(uuid4()),
                id=str(keys.new_id()),
                campaign_id=str(campaign),
                step_order=1,
                step_type=step_pb.SEQUENCE_STEP_TYPE_EMAIL,
                email_account_id=str(mailbox_id),
                template_id=str(template_id),
                is_active=True,
            ),
        )
        await self._oltp.insist(
            self._oltp.stub(SequenceStepServiceStub).CreateSequenceStep, step, deadline_s=DEADLINE_S
        )
        return campaign

    async def launch(
        self, tenant_id: UUID, campaign_id: UUID, *, progress: Callable[[int], None] | None = None
    ) -> Launch:
        """Send the campaign's first email step to its audience, then seal the campaign.

        Begun, it is finished by whichever process; launched again meanwhile it is the same launch, and later it reaches
        those who have no email yet. Raises LaunchError, TemplateInvalidError, TierError, SagaError. `progress` is called
        with the number of emails created so far.
        """
        return await self._send("campaign.launch", tenant_id, campaign_id, progress)

    async def resume(
        self, tenant_id: UUID, campaign_id: UUID, *, progress: Callable[[int], None] | None = None
    ) -> Launch:
        """Let a paused campaign run, and write to those who have no email yet; raises as `launch`."""
        return await self._send("campaign.resume", tenant_id, campaign_id, progress)

    async def pause(self, tenant_id: UUID, campaign_id: UUID) -> None:
        """Stop writing emails; those that stand are still sent. Raises TierError, SagaError."""
        await self._carried("campaign.pause", tenant_id, campaign_id)

    async def cancel(self, tenant_id: UUID, campaign_id: UUID) -> None:
        """End it for good: none of its queued emails is sent any more. Raises TierError, SagaError."""
        # Nothing comes after it that a joined one could lie before.
        await self._sagas.carry_out(
            "campaign.cancel", tenant_id, {"campaign_id": str(campaign_id)}, subject=str(campaign_id)
        )

    async def _carried(self, kind: str, tenant_id: UUID, campaign_id: UUID, **how: Any) -> Held:
        """A move, carried out. One that is under way is joined; but what that did may lie before a contrary move that was
        acknowledged before this one was asked for: where it does, and the campaign stands against it still, it is carried out
        anew. A contrary move that came only then is let stand."""
        move: dict[str, Any] = {"subject": str(campaign_id), **how}
        own, input_ = keys.new_id(), {"campaign_id": str(campaign_id)}
        against, step = _AGAINST[kind]
        before = await self._get(tenant_id, campaign_id)
        held = await self._sagas.carry_out(kind, tenant_id, input_, saga_id=own, **move)
        stale = before.status == against and _since(held, step) < before.updated_at.ToNanoseconds()
        if held.id != own and stale and (await self._get(tenant_id, campaign_id)).status == against:
            # Whatever is joined now was begun after this one was asked for.
            held = await self._sagas.carry_out(kind, tenant_id, input_, **move)
        return held

    async def _get(self, tenant_id: UUID, campaign_id: UUID) -> campaign_pb.Campaign:
        request = campaign_pb.GetCampaignRequest(tenant_id=str(tenant_id), campaign_id=str(campaign_id))
        method = self._oltp.stub(CampaignServiceStub).GetCampaign
        campaign: campaign_pb.Campaign = (await self._oltp.insist(method, request, deadline_s=DEADLINE_S)).campaign
        return campaign

    async def _send(
        self, kind: str, tenant_id: UUID, campaign_id: UUID, progress: Callable[[int], None] | None
    ) -> Launch:
        def told(so_far: Mapping[str, Any]) -> None:
            if progress is not None and "created" in so_far:
                progress(so_far["created"])

        done = await self._carried(kind, tenant_id, campaign_id, patience_s=DEADLINE_S, progress=told)
        sent = done.results["send"]
        refusals = [(UUID(lead), Refusal(*refusal)) for lead, *refusal in sent.get("refusals", ())]
        return Launch(
            campaign_id, UUID(done.results["plan"]["step_id"]), sent.get("created", 0), sent.get("refused", 0),
            refusals, bool(sent.get("stopped")),
        )  # fmt: skip


def _since(held: Held, step: str) -> int:
    """Since when a campaign stood as this step of a saga left it (nanoseconds, by OLTP's clock)."""
    # One that an older process carried out does not say so: whatever it did is taken for the latest.
    return int(held.results.get(step, {}).get("since", 1 << 62))
