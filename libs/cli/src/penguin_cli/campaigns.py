"""`campaign` create, launch and report, and `etl run`, which brings the report up to the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from penguin.olap.v1 import report_service_pb2 as report_pb
from penguin.olap.v1.report_service_pb2_grpc import ReportServiceStub
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin_cli import reports
from penguin_cli.lookups import DEADLINE_S, TenantName, id_of, mailbox_of, template_of, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import CommandError, act, root_of, screen
from penguin_orchestrator import etl
from penguin_orchestrator.platform import Penguin

_REFUSALS_SHOWN = 20


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(campaigns(), name="campaign", rich_help_panel="The main job")
    app.add_typer(etl_commands(), name="etl", rich_help_panel="The main job")


def campaigns() -> typer.Typer:
    """The commands on campaigns."""
    app = typer.Typer(help="Campaigns: one template, one audience.", no_args_is_help=True)
    app.command()(create)
    app.command()(launch)
    for command in (pause, resume, cancel):
        app.command()(command)
    app.command()(report)
    return app


def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called.")],
    tenant: TenantName,
    audience: Annotated[str, typer.Option("--list", help="The leads' list it writes to.")],
    template: Annotated[str, typer.Option(help="The template's id or name.")],
    mailbox: Annotated[str, typer.Option(help="The mailbox's id or address.")],
) -> None:
    """Create a draft campaign with one email step and print its id."""
    act(_create(root_of(context), tenant, name, audience, template, mailbox))


async def _create(root: Path, tenant: str, name: str, audience: str, template: str, mailbox: str) -> None:
    async with connected(root, traced=True) as penguin:
        tenant_id = await tenant_of(penguin, tenant)
        template_id = await template_of(penguin, tenant_id, template)
        mailbox_id = await mailbox_of(penguin, tenant_id, mailbox)
        typer.echo(
            await penguin.campaigns.create(tenant_id, name, audience, template_id=template_id, mailbox_id=mailbox_id)
        )


def launch(
    context: typer.Context,
    campaign: Annotated[str, typer.Argument(help="The campaign's id.")],
    tenant: TenantName,
) -> None:
    """Write the campaign's emails, one per lead of its audience; launching again sends nothing twice. Begun, it is
    finished by the platform, whatever becomes of this command."""
    act(_launch(root_of(context), tenant, campaign, resumed=False))


def resume(
    context: typer.Context,
    campaign: Annotated[str, typer.Argument(help="The campaign's id.")],
    tenant: TenantName,
) -> None:
    """Let a paused campaign run, and write to those who have no email yet."""
    act(_launch(root_of(context), tenant, campaign, resumed=True))


def pause(
    context: typer.Context,
    campaign: Annotated[str, typer.Argument(help="The campaign's id.")],
    tenant: TenantName,
) -> None:
    """Write no further emails of a campaign; those that stand are still sent."""
    act(_move(root_of(context), tenant, campaign, paused=True))


def cancel(
    context: typer.Context,
    campaign: Annotated[str, typer.Argument(help="The campaign's id.")],
    tenant: TenantName,
) -> None:
    """End a campaign for good; none of its queued emails is sent any more."""
    act(_move(root_of(context), tenant, campaign, paused=False))


async def _move(root: Path, tenant: str, campaign: str, *, paused: bool) -> None:
    async with connected(root, traced=True) as penguin:
        tenant_id, campaign_id = await tenant_of(penguin, tenant), id_of(campaign, "campaign")
        move = penguin.campaigns.pause if paused else penguin.campaigns.cancel
        await move(tenant_id, campaign_id)


async def _launch(root: Path, tenant: str, campaign: str, *, resumed: bool) -> None:
    out = screen()
    async with connected(root, traced=True) as penguin:
        tenant_id = await tenant_of(penguin, tenant)
        campaign_id = id_of(campaign, "campaign")
        columns = (TextColumn("{task.completed:.0f} emails created"), TimeElapsedColumn())
        with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
            task = progress.add_task("", total=None)
            send = penguin.campaigns.resume if resumed else penguin.campaigns.launch
            done = await send(tenant_id, campaign_id, progress=lambda count: progress.update(task, completed=count))
    out.print(f"[bold]{done.created}[/] emails created, {done.refused} refused")
    if done.stopped:
        out.print("the campaign was paused or cancelled before everybody had one")
    for lead, refusal in done.refusals[:_REFUSALS_SHOWN]:
        out.print(f"  lead {lead}: {refusal.reason} {escape(refusal.field)} {escape(refusal.message)}")
    if done.refused:
        raise CommandError(f"{done.refused} emails were refused; the others stand")


def report(
    context: typer.Context,
    campaign: Annotated[str, typer.Argument(help="The campaign's id.")],
    tenant: TenantName,
    days: Annotated[int, typer.Option(min=1, max=366, help="How many days back, today included.")] = 30,
) -> None:
    """Show what became of a campaign: a table, a chart, and how fresh the figures are."""
    act(_report(root_of(context), tenant, campaign, days))


async def _report(root: Path, tenant: str, campaign: str, days: int) -> None:
    async with connected(root) as penguin:
        tenant_id = await tenant_of(penguin, tenant)
        campaign_id = id_of(campaign, "campaign")
        reply = await fetch_report(penguin, tenant_id, campaign_id, days)
        name = await _name(penguin, tenant_id, campaign_id)
    screen().print(reports.campaign(name, reply))


async def _name(penguin: Penguin, tenant_id: UUID, campaign_id: UUID) -> str:
    oltp = penguin.tiers["oltp"]
    request = campaign_pb.GetCampaignRequest(tenant_id=str(tenant_id), campaign_id=str(campaign_id))
    method = oltp.stub(CampaignServiceStub).GetCampaign
    return str((await oltp.insist(method, request, deadline_s=DEADLINE_S)).campaign.name)


async def fetch_report(
    penguin: Penguin, tenant_id: UUID, campaign_id: UUID, days: int
) -> report_pb.GetCampaignReportResponse:
    """OLAP's report of the last so many UTC days, today included. Raises TierError."""
    today = datetime.now(UTC).date()
    request = report_pb.GetCampaignReportRequest(
        tenant_id=str(tenant_id),
        campaign_id=str(campaign_id),
        span=report_pb.DaySpan(first_day=str(today - timedelta(days=days - 1)), last_day=str(today)),
    )
    olap = penguin.tiers["olap"]
    method = olap.stub(ReportServiceStub).GetCampaignReport
    reply: report_pb.GetCampaignReportResponse = await olap.insist(method, request, deadline_s=DEADLINE_S)
    return reply


def etl_commands() -> typer.Typer:
    """The command that loads OLAP."""
    app = typer.Typer(help="Facts: from OLTP's ledger to OLAP.", no_args_is_help=True)

    @app.callback()
    def group() -> None:
        """Keep `run` a command of its own."""

    @app.command()
    def run(context: typer.Context, tenant: TenantName) -> None:
        """Bring one tenant's facts up to its ledger; running it twice loads the same."""
        act(_etl(root_of(context), tenant))

    return app


async def _etl(root: Path, tenant: str) -> None:
    async with connected(root, traced=True) as penguin:
        refreshed = await etl.refresh(penguin.tiers, await tenant_of(penguin, tenant))
    days = ", ".join(refreshed.days) or "no day had changed"
    screen().print(f"[bold]{refreshed.cells}[/] cells loaded ({days})")
