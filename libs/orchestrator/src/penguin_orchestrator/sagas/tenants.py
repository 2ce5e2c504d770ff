"""Sagas of tenants: known to every tier or to none; closed everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin.queue.v1 import queue_service_pb2 as job_pb
from penguin.queue.v1 import schedule_service_pb2 as schedule_pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin.queue.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.sagas.campaigns import unless_over
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import Act, Definition, Step

TIERS = ("content", "queue", "olap", "notifications", "oltp")
PAGE = 1000
SEND_JOB = "email.send"
# Campaigns that the survey names, and the journal has room for (64 KiB): those that are resumed where the close is refused.
SURVEYED = 1000
# States that a job can be cancelled in.
_WAITING = (job_pb.JOB_STATE_READY, job_pb.JOB_STATE_HELD)


def _provision(tier: str) -> Act:
    async def act(deed: Deed) -> None:
        request = tier_pb.ProvisionTenantRequest(tenant_id=str(deed.tenant_id))
        await deed.ask(tier, TierServiceStub, "ProvisionTenant", request)

    return act


def _close(tier: str) -> Act:
    async def act(deed: Deed) -> None:
        request = tier_pb.CloseTenantRequest(tenant_id=str(deed.tenant_id))
        await deed.ask(tier, TierServiceStub, "CloseTenant", request)

    return act


async def _create(deed: Deed) -> None:
    tenant = tenant_pb.NewTenant(request_id=deed.request_id(), id=str(deed.tenant_id), name=deed.input["name"])
    await deed.ask("oltp", TenantServiceStub, "CreateTenant", tenant_pb.CreateTenantRequest(tenant=tenant))


async def _survey(deed: Deed) -> Mapping[str, Any]:
    """Campaigns that run, as many as are named; NOT_FOUND where there is no such tenant."""
    tenant_id = str(deed.tenant_id)
    await deed.call("oltp", TenantServiceStub, "GetTenant", tenant_pb.GetTenantRequest(tenant_id=tenant_id))
    page = await deed.call("oltp", CampaignServiceStub, "ListCampaigns", _running(deed, SURVEYED))
    return {"campaigns": [campaign.id for campaign in page.campaigns]}


def _running(deed: Deed, page_size: int) -> campaign_pb.ListCampaignsRequest:
    return campaign_pb.ListCampaignsRequest(
        tenant_id=str(deed.tenant_id), page_size=page_size, status=campaign_pb.CAMPAIGN_STATUS_RUNNING
    )


async def _pause(deed: Deed, campaigns: Iterable[str]) -> None:
    """Pause these; what has ended meanwhile needs none."""
    for campaign in campaigns:
        await unless_over(
            deed, "PauseCampaign", campaign_pb.PauseCampaignRequest(tenant_id=str(deed.tenant_id), campaign_id=campaign)
        )


async def _pause_campaigns(deed: Deed) -> None:
    await _pause(deed, deed.results["survey"].get("campaigns", ()))


async def _pause_others(deed: Deed) -> None:
    """Those that were too many to be named, and those begun since: past the pivot nobody has to know which they were."""
    request = _running(deed, PAGE)
    while True:
        page = await deed.call("oltp", CampaignServiceStub, "ListCampaigns", request)
        await _pause(deed, [campaign.id for campaign in page.campaigns])
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def _resume_campaigns(deed: Deed) -> None:
    for campaign in deed.results["survey"].get("campaigns", ()):
        await unless_over(
            deed, "StartCampaign", campaign_pb.StartCampaignRequest(tenant_id=str(deed.tenant_id), campaign_id=campaign)
        )


async def _pause_schedules(deed: Deed) -> None:
    request = schedule_pb.ListSchedulesRequest(tenant_id=str(deed.tenant_id), page_size=PAGE)
    while True:
        page = await deed.call("queue", ScheduleServiceStub, "ListSchedules", request)
        for schedule in page.schedules:
            if schedule.HasField("next_at"):
                pause = schedule_pb.PauseScheduleRequest(tenant_id=str(deed.tenant_id), name=schedule.name)
                await deed.call("queue", ScheduleServiceStub, "PauseSchedule", pause, schedule.name)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def _cancel_emails(deed: Deed) -> Mapping[str, Any]:
    await _pause_others(deed)
    tenant_id, cancelled = str(deed.tenant_id), int(deed.so_far.get("cancelled", 0))
    request = email_pb.ListEmailsRequest(tenant_id=tenant_id, page_size=PAGE, status=email_pb.EMAIL_STATUS_QUEUED)
    while True:
        page = await deed.call("oltp", EmailServiceStub, "ListEmails", request)
        if page.emails:
            ids = [email.id for email in page.emails]
            cancel = email_pb.CancelEmailsRequest(tenant_id=tenant_id, email_ids=ids)
            reply = await deed.call("oltp", EmailServiceStub, "CancelEmails", cancel, *ids)
            cancelled += len(reply.cancelled_ids)
            deed.report(cancelled=cancelled)
        if not page.next_page_token:
            return {"cancelled": cancelled}
        request.page_token = page.next_page_token


async def _cancel_jobs(deed: Deed) -> None:
    """Those that wait. Emails' are left: each finds its email cancelled, or is the one that settles what its worker began."""
    for state in _WAITING:
        request = job_pb.ListJobsRequest(tenant_id=str(deed.tenant_id), page_size=PAGE, state=state)
        while True:
            page = await deed.call("queue", QueueServiceStub, "ListJobs", request)
            if ids := [job.id for job in page.jobs if job.kind != SEND_JOB]:
                await _cancel(deed, ids)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token


async def _cancel(deed: Deed, ids: Sequence[int]) -> None:
    request = job_pb.CancelJobsRequest(tenant_id=str(deed.tenant_id), job_ids=ids)
    await deed.call("queue", QueueServiceStub, "CancelJobs", request, *ids)


async def _say_closed(deed: Deed) -> None:
    request = tenant_pb.CloseTenantRequest(tenant_id=str(deed.tenant_id))
    await deed.ask("oltp", TenantServiceStub, "CloseTenant", request)


ONBOARD = Definition(
    "tenant.onboard",
    1,
    (
        *(Step(tier, tier, _provision(tier), _provision(tier), after=()) for tier in TIERS),
        Step("create", "oltp", _create, _create, after=TIERS, pivot=True),
    ),
)
_ENDED = ("schedules", "emails", "jobs")
_CLOSED = tuple(f"close_{tier}" for tier in TIERS if tier != "content")
CLOSE = Definition(
    "tenant.close",
    1,
    (
        Step("survey", "oltp", _survey, pure=True),
        Step("campaigns", "oltp", _pause_campaigns, _resume_campaigns, pivot=True),
        # From here on no new email is accepted: its body would have nowhere to go. What was is taken back.
        Step("close_content", "content", _close("content")),
        Step("schedules", "queue", _pause_schedules, after=("close_content",)),
        Step("emails", "oltp", _cancel_emails, after=("close_content",)),
        Step("jobs", "queue", _cancel_jobs, after=("schedules", "emails")),
        *(Step(f"close_{tier}", tier, _close(tier), after=_ENDED) for tier in TIERS if tier != "content"),
        Step("status", "oltp", _say_closed, after=_CLOSED),
    ),
)


def onboarding_id(tenant_id: UUID) -> UUID:
    """The id of the saga that onboards a tenant: its own, as it is onboarded once."""
    return tenant_id
