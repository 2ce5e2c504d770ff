"""`tenant`, `mailbox`, `leads` and `template`: what stands before a first campaign."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from penguin.common.v1 import errors_pb2
from penguin.oltp.v1 import lead_service_pb2 as lead_pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin_cli import leadfiles
from penguin_cli.lookups import PAGE, TenantName, each, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import CommandError, act, root_of, screen
from penguin_orchestrator.messages import Attachment
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.tenants import LEADS_PER_CALL

_ERRORS_SHOWN = 50
_EXISTS = errors_pb2.ERROR_REASON_ALREADY_EXISTS


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for name, commands in (("tenant", tenants), ("mailbox", mailboxes), ("leads", leads), ("template", templates)):
        app.add_typer(commands(), name=name, rich_help_panel="The main job")


def tenants() -> typer.Typer:
    """The commands on tenants."""
    app = typer.Typer(help="Tenants: the customers of the platform.", no_args_is_help=True)

    @app.command()
    def create(
        context: typer.Context,
        name: Annotated[str, typer.Argument(help="What it is called.")],
    ) -> None:
        """Make a tenant known to every tier, or to none, and print its id."""
        act(_create_tenant(root_of(context), name))

    @app.command()
    def close(
        context: typer.Context, tenant: Annotated[str, typer.Argument(help="Its id or name.", metavar="TENANT")]
    ) -> None:
        """End a tenant's changes: what runs is paused, what is queued is cancelled, and all is kept."""
        act(_close_tenant(root_of(context), tenant))

    @app.command("list")
    def list_(context: typer.Context) -> None:
        """List every tenant."""
        act(_list_tenants(root_of(context)))

    return app


async def _create_tenant(root: Path, name: str) -> None:
    async with connected(root, traced=True) as penguin:
        typer.echo(await penguin.tenants.onboard(name))


async def _close_tenant(root: Path, tenant: str) -> None:
    async with connected(root, traced=True) as penguin:
        await penguin.tenants.close(await tenant_of(penguin, tenant))


async def _list_tenants(root: Path) -> None:
    table = Table("id", "name", "state", "since", box=None, header_style="bold", pad_edge=False)
    async with connected(root) as penguin:
        oltp = penguin.tiers["oltp"]
        request = tenant_pb.ListTenantsRequest(page_size=PAGE)
        async for tenant in each(oltp, oltp.stub(TenantServiceStub).ListTenants, request, "tenants"):
            state = tenant_pb.TenantStatus.Name(tenant.status).removeprefix("TENANT_STATUS_").lower()
            since = f"{tenant.created_at.ToDatetime():%Y-%m-%d %H:%M} UTC"
            table.add_row(tenant.id, escape(tenant.name), state, since)
    screen().print(table)


def mailboxes() -> typer.Typer:
    """The commands on mailboxes."""
    app = typer.Typer(help="Mailboxes: the addresses a tenant sends from.", no_args_is_help=True)

    @app.callback()
    def group() -> None:
        """Keep `create` a command of its own."""

    @app.command()
    def create(
        context: typer.Context,
        email: Annotated[str, typer.Argument(help="The address.")],
        tenant: TenantName,
        name: Annotated[str, typer.Option(help="The name shown beside the address.")] = "",
    ) -> None:
        """Create a mailbox and print its id."""
        act(_create_mailbox(root_of(context), tenant, email, name))

    return app


async def _create_mailbox(root: Path, tenant: str, email: str, name: str) -> None:
    async with connected(root, traced=True) as penguin:
        typer.echo(await penguin.tenants.add_mailbox(await tenant_of(penguin, tenant), email, name))


def leads() -> typer.Typer:
    """The commands on leads."""
    app = typer.Typer(help="Leads: the people a tenant writes to.", no_args_is_help=True)

    @app.callback()
    def group() -> None:
        """Keep `import` a command of its own."""

    @app.command("import")
    def import_(
        context: typer.Context,
        csv: Annotated[Path, typer.Argument(help="CSV with a heading: email, first_name, last_name, company, others.")],
        tenant: TenantName,
        audience: Annotated[str, typer.Option("--list", help="The audience they belong to; campaigns name one.")],
    ) -> None:
        """Import leads, telling of each line that cannot be; run again, it adds only what is missing."""
        act(_import_leads(root_of(context), tenant, csv, audience))

    return app


@dataclass
class LeadImport:
    """What an import of leads did; `problems` are (line, why)."""

    created: int = 0
    existed: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)


async def _import_leads(root: Path, tenant: str, csv: Path, audience: str) -> None:
    out = screen()
    async with connected(root, traced=True) as penguin:
        tenant_id = await tenant_of(penguin, tenant)
        lines = leadfiles.read(csv, tenant_id, audience)
        with Progress(console=out, transient=True, disable=not out.is_terminal) as progress:
            task = progress.add_task("leads", total=len(lines))
            done = await add_lines(penguin, tenant_id, lines, lambda count: progress.update(task, completed=count))
    out.print(
        f"[bold]{done.created}[/] created, {done.existed} existed, {len(done.problems)} left out, of {len(lines)} lines"
    )
    for number, problem in done.problems[:_ERRORS_SHOWN]:
        out.print(f"  line {number}: {escape(problem)}")
    if len(done.problems) > _ERRORS_SHOWN:
        out.print(f"  … and {len(done.problems) - _ERRORS_SHOWN} more")
    if done.problems:
        raise CommandError(f"{len(done.problems)} lines were left out; the others stand")


async def add_lines(
    penguin: Penguin, tenant_id: UUID, lines: list[leadfiles.Line], progress: object = None
) -> LeadImport:
    """Create the leads of these lines, call by call; `progress` hears how many lines are dealt with."""
    done = LeadImport(problems=[(line.number, line.problem) for line in lines if line.lead is None])
    good = [(line.number, line.lead) for line in lines if line.lead is not None]
    for first in range(0, len(good), LEADS_PER_CALL):
        part = good[first : first + LEADS_PER_CALL]
        results = await penguin.tenants.add_leads(tenant_id, [lead for _, lead in part])
        for (number, lead), result in zip(part, results, strict=True):
            _count(done, number, lead, result)
        if callable(progress):
            progress(len(done.problems) + done.created + done.existed)
    done.problems.sort()
    return done


def _count(done: LeadImport, number: int, lead: lead_pb.NewLead, result: lead_pb.CreateLeadResult) -> None:
    if result.WhichOneof("outcome") == "lead":
        # A line imported before is answered with the lead it made then.
        done.created += result.lead.id == lead.id
        done.existed += result.lead.id != lead.id
    elif result.error.reason == _EXISTS:
        done.existed += 1
    else:
        named = result.error.field and not result.error.message.startswith(result.error.field)
        done.problems.append(
            (number, f"{result.error.field}: {result.error.message}" if named else result.error.message)
        )


def templates() -> typer.Typer:
    """The commands on templates."""
    app = typer.Typer(help="Templates: what campaigns are rendered from.", no_args_is_help=True)

    @app.callback()
    def group() -> None:
        """Keep `create` a command of its own."""

    @app.command()
    def create(
        context: typer.Context,
        name: Annotated[str, typer.Argument(help="What it is called.")],
        tenant: TenantName,
        subject: Annotated[str, typer.Option(help="May hold merge fields: Hello {{ first_name }}.")],
        text: Annotated[
            Path | None, typer.Option(help="File with the plain text part.", exists=True, dir_okay=False)
        ] = None,
        html: Annotated[Path | None, typer.Option(help="File with the HTML part.", exists=True, dir_okay=False)] = None,
        attach: Annotated[
            list[Path] | None, typer.Option(help="File to attach; may be repeated.", exists=True, dir_okay=False)
        ] = None,
    ) -> None:
        """Create a template and print its id."""
        act(_create_template(root_of(context), tenant, name, subject, text, html, attach or []))

    return app


async def _create_template(
    root: Path, tenant: str, name: str, subject: str, text: Path | None, html: Path | None, attach: list[Path]
) -> None:
    if text is None and html is None:
        raise CommandError("a template needs --text, --html or both")
    parts = [path.read_text(encoding="utf-8") if path else "" for path in (text, html)]
    async with connected(root, traced=True) as penguin:
        template = await penguin.tenants.add_template(
            await tenant_of(penguin, tenant), name, subject=subject, text=parts[0], html=parts[1],
            attachments=[attachment(path) for path in attach],
        )  # fmt: skip
    typer.echo(template)


def attachment(path: Path) -> Attachment:
    """A file as an attachment, its type guessed from its name."""
    kind, encoding = mimetypes.guess_type(path.name)
    return Attachment(path.name, kind if kind and not encoding else "application/octet-stream", path.read_bytes())
