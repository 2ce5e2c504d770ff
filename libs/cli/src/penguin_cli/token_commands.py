"""`token`: what another client needs to call the local stack. Signed with the development issuer's own keys; nothing here
works against any other issuer."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from penguin_cli import contract
from penguin_cli.surroundings import USAGE, CommandError, root_of, told
from penguin_devstack.issuer import Issuer
from penguin_devstack.stack import LocalStack, NeverUpError

TenantOption = Annotated[
    str | None, typer.Option("--tenant", "-t", envvar="PENGUIN_TENANT", help="The tenant's id (UUID).", metavar="ID")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Local stack")(token)


def token(
    context: typer.Context,
    tier: Annotated[str, typer.Argument(help=f"The tier it is for: {', '.join(contract.TIERS)}.")],
    tenant: TenantOption = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope; may be repeated.", show_default="all that tenants have there")
    ] = None,
    platform: Annotated[
        bool, typer.Option("--platform", help="A platform token, good for the named methods only.")
    ] = False,
    method: Annotated[
        list[str] | None, typer.Option(help="penguin.tier.v1.TierService/GetStatus; may be repeated.")
    ] = None,
    actor: Annotated[str, typer.Option(help="Who it speaks for.")] = "developer",
    ttl: Annotated[float, typer.Option(min=1, max=300, help="Seconds it is good for.")] = 300,
) -> None:
    """Print a development token for one tier, and nothing else, for use in a shell."""
    with told():
        keys = LocalStack(root_of(context)).issuer_dir
        if not keys.exists():
            raise NeverUpError(f"the stack in {keys.parent} has never been up")
        if tier not in contract.TIERS:
            raise CommandError(f"no tier is called {tier}; there are {', '.join(contract.TIERS)}", USAGE)
        if platform != bool(method):
            raise CommandError("a platform token needs --method, and only a platform token takes it", USAGE)
        if not platform and tenant is None:
            raise CommandError("a token is for one --tenant, or a --platform one for named methods", USAGE)
        named = [_method(tier, path) for path in method or []]
        scopes = scope or (sorted({each.scope for each in named}) if named else contract.tenant_scopes(tier))
        paths = [each.path for each in named]
        text = Issuer(keys).mint(
            tier, _tenant(tenant), actor=actor, scopes=scopes, platform=platform, methods=paths, ttl_s=ttl
        )
    typer.echo(text)


def _method(tier: str, path: str) -> contract.Method:
    found = contract.find(tier, path)
    if found is None:
        raise CommandError(
            f"{tier} has no method {path}; they are named like penguin.tier.v1.TierService/GetStatus", USAGE
        )
    return found


def _tenant(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise CommandError(f"{text} is no tenant's id (a UUID)", USAGE) from None
