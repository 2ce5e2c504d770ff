"""`tenant`, `mailbox` and `template`: what stands before a first campaign."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin_cli.lookups import PAGE, TenantName, each, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import CommandError, act, root_of, screen
from penguin_orchestrator.messages import Attachment


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for name, commands in (("tenant", tenants), ("mailbox", mailboxes), ("template", templates)):
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
