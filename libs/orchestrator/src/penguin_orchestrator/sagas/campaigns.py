"""Sagas of campaigns: launched, paused, resumed, cancelled. Two launches of a campaign at a time are one."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar
from uuid import UUID

from penguin.oltp.v1 import campaign_service_pb2 as pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin_orchestrator.errors import CLOSED, TierError
from penguin_orchestrator.launching import Launcher, LaunchError
from penguin_orchestrator.rendering import TemplateInvalidError
from penguin_orchestrator.sagas.deeds import Deed, RefusedError
from penguin_orchestrator.sagas.definition import Act, Definition, Step
from penguin_orchestrator.sending import Sender

T = TypeVar("T")
# Calls that take emails back before the rest is left to their own turns.
TAKEN_BACK_CALLS = 100


def _launcher(deed: Deed) -> Launcher:
    content, oltp = deed.tiers["content"], deed.tiers["oltp"]
    return Launcher(content, oltp, Sender(content, oltp))


def _campaign(deed: Deed) -> UUID:
    return UUID(deed.input["campaign_id"])


async def _plan(deed: Deed) -> Mapping[str, Any]:
    """Whether it can be launched at all, found out before anything is changed."""
    try:
        plan = await _launcher(deed).plan(deed.tenant_id, _campaign(deed))
    except (LaunchError, TemplateInvalidError) as error:
        raise RefusedError(type(error).__name__) from error
    return {"step_id": str(plan.step_id)}


def _ask(method: str) -> Act:
    request_type: Any = getattr(pb, f"{method}Request")

    async def act(deed: Deed) -> Mapping[str, Any]:
        request = request_type(tenant_id=str(deed.tenant_id), campaign_id=str(_campaign(deed)))
        reply = await deed.ask("oltp", CampaignServiceStub, method, request)
        # By OLTP's clock, in nanoseconds: when it came to stand so.
        return {"since": reply.campaign.updated_at.ToNanoseconds()}

    return act


async def _unless_closed(deed: Deed, work: Coroutine[Any, Any, T]) -> T:
    """Where the tenant is closed meanwhile the campaign does not stay running, with nobody to write its emails."""
    try:
        return await work
    except TierError as error:
        if error.reason == CLOSED:
            request = pb.PauseCampaignRequest(tenant_id=str(deed.tenant_id), campaign_id=str(_campaign(deed)))
            await unless_over(deed, "PauseCampaign", request)
        raise


async def _send(deed: Deed) -> Mapping[str, Any]:
    """An email for each recipient who has none. Ends early where the campaign is paused or cancelled meanwhile."""
    launcher = _launcher(deed)
    plan = await launcher.plan(deed.tenant_id, _campaign(deed))
    sending = launcher.send_all(deed.tenant_id, plan, deed.so_far, lambda so_far: deed.report(**so_far))
    return await _unless_closed(deed, sending)


async def _seal(deed: Deed) -> Mapping[str, Any] | None:
    if deed.results["send"].get("stopped"):
        return {"sealed": False}
    request = pb.SealCampaignRequest(tenant_id=str(deed.tenant_id), campaign_id=str(_campaign(deed)))
    try:
        await _unless_closed(deed, deed.ask("oltp", CampaignServiceStub, "SealCampaign", request))
    except TierError as error:
        if error.reason != "STATE_CONFLICT":
            raise
        return {"sealed": False}  # it was stopped just now
    return {"sealed": True}


async def unless_over(deed: Deed, method: str, request: Any) -> None:
    """Move a campaign, unless it has ended meanwhile, is gone, or its tenant is closed."""
    try:
        await deed.call("oltp", CampaignServiceStub, method, request, request.campaign_id)
    except TierError as error:
        if error.reason not in {"STATE_CONFLICT", "NOT_FOUND", CLOSED}:
            raise


async def _take_back(deed: Deed) -> None:
    """Cancel what is queued of a cancelled campaign; none of it is sent in any case."""
    ids: dict[str, Any] = {"tenant_id": str(deed.tenant_id), "campaign_id": str(_campaign(deed))}
    for n in range(TAKEN_BACK_CALLS):
        progress = await deed.call(
            "oltp", CampaignServiceStub, "GetCampaignProgress", pb.GetCampaignProgressRequest(**ids)
        )
        if not any(each.count for each in progress.counts if each.status == email_pb.EMAIL_STATUS_QUEUED):
            return
        await deed.call("oltp", CampaignServiceStub, "CancelCampaign", pb.CancelCampaignRequest(**ids), n)


_START, _PAUSE, _CANCEL = _ask("StartCampaign"), _ask("PauseCampaign"), _ask("CancelCampaign")
_LAUNCHED = (
    Step("plan", "oltp", _plan, pure=True),
    Step("start", "oltp", _START, _PAUSE, pivot=True),
    Step("send", "content", _send),
    Step("seal", "oltp", _seal),
)
LAUNCH = Definition("campaign.launch", 1, _LAUNCHED)
# Whoever had no email when it was paused gets one now.
RESUME = Definition("campaign.resume", 1, _LAUNCHED)
PAUSE = Definition("campaign.pause", 1, (Step("pause", "oltp", _PAUSE, _START, pivot=True),))
CANCEL = Definition(
    "campaign.cancel", 1,
    (Step("cancel", "oltp", _CANCEL, _CANCEL, pivot=True), Step("take_back", "oltp", _take_back)),
)  # fmt: skip
