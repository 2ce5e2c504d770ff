"""`erasure` and `restore`: the ledger of erasures, and databases that were put back to an older state."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin_cli.charts import ids
from penguin_cli.lookups import tenant_of
from penguin_cli.session import connected, platform_config
from penguin_cli.subject_commands import told
from penguin_cli.surroundings import FAILED, CommandError, act, root_of, screen
from penguin_orchestrator.erasure_ledger import Entry, ErasureLedger, make_key


class Tier(StrEnum):
    """The tiers."""

    OLTP = "oltp"
    CONTENT = "content"
    OLAP = "olap"
    QUEUE = "queue"
    NOTIFICATIONS = "notifications"


OfTenant = Annotated[
    str,
    typer.Option("--tenant", "-t", envvar="PENGUIN_TENANT", help="The tenant's id or name.", metavar="TENANT"),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="The ledger of erasures, kept outside the databases.", no_args_is_help=True)
    for name, command in (
        ("list", list_), ("show", show), ("verify", verify), ("replay", replay), ("recover", recover), ("key", key),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="erasure", rich_help_panel="Operations")
    restored = typer.Typer(help="Databases put back to an older state.", no_args_is_help=True)
    restored.command("mark")(mark)
    restored.command("status")(status)
    app.add_typer(restored, name="restore", rich_help_panel="Operations")


def _ledger(context: typer.Context) -> ErasureLedger:
    found = platform_config(root_of(context)).ledger()
    if found is None:
        raise CommandError("there is no ledger: ERASURE_LEDGER_PATH, _COPY_PATH and _KEY_PATH name it", FAILED)
    return found


def list_(context: typer.Context) -> None:
    """List what the ledger orders erased, the oldest first; persons by their HMAC."""

    async def work() -> None:
        ledger = _ledger(context)
        screen().print(_table(await asyncio.to_thread(ledger.orders)))

    act(work())


def show(context: typer.Context, tenant: OfTenant) -> None:
    """Show a tenant's erasures with the tiers' receipts, and where others mention the persons."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            async for erasure in penguin.subjects.erasures(await tenant_of(penguin, tenant)):
                screen().print(told(erasure))

    act(work())


def verify(context: typer.Context, tenant: OfTenant = "") -> None:
    """Check the ledger's chain, its seals and its copy; with a tenant also that tenant's receipts against it: that they are those
    that were given, and that no tier's part was skipped."""

    async def work() -> None:
        if not tenant:
            head = await asyncio.to_thread(_ledger(context).verify)
            screen().print(f"the ledger is whole; head {head}")
            return
        unbound: list[str] = []
        async with connected(root_of(context)) as penguin:
            faults = await penguin.subjects.verify(await tenant_of(penguin, tenant), unbound=unbound.append)
        for erasure_id in unbound:
            screen().print(
                f"{erasure_id}: from before receipts were bound to the ledger: what they count is OLTP's word"
            )
        if faults:
            raise CommandError("\n".join(faults), FAILED)
        screen().print("the ledger is whole, and every receipt agrees with it")

    act(work())


def replay(context: typer.Context) -> None:
    """Carry every erasure out again, and let the tiers in that wait for it: after a restore."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            done = await penguin.subjects.replay()
        screen().print(f"{done.erased} erasures carried out again")
        for erasure_id, why in done.kept.items():
            screen().print(f"  kept    {erasure_id}  {escape(why)}")
        for tier in done.ready:
            screen().print(f"  ready   {tier}")
        for tenant_id in sorted(map(str, done.refused)) if done.ready else ():
            screen().print(f"  refused {tenant_id}  until what was kept is settled, and replayed")

    act(work())


def recover(context: typer.Context) -> None:
    """Bring the ledger back from its copy, where its folder was lost, or the copy from the ledger."""

    async def work() -> None:
        count = await asyncio.to_thread(_ledger(context).restore)
        screen().print(f"{count} records brought back; the ledger is whole")

    act(work())


def key(
    path: Annotated[Path, typer.Argument(help="Where the key goes: not beside the ledger.", metavar="FILE")],
) -> None:
    """Make a key for the ledger. Without it nothing of the ledger can be read: keep it, and keep it elsewhere."""
    if not make_key(path):
        raise typer.BadParameter(f"{path} exists")
    screen().print(f"made {path}")


def mark(
    context: typer.Context, tier: Annotated[Tier, typer.Argument(help="The tier whose database was restored.")]
) -> None:
    """Say that a tier's database was restored: it serves no tenant until erasures are replayed."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            incarnation = await penguin.subjects.mark_restored(tier)
        screen().print(f"{tier} is incarnation {incarnation}, and waits for `penguin erasure replay`")

    act(work())


def status(context: typer.Context) -> None:
    """List the tiers that wait for erasures to be replayed, all of them or those of a tenant."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            waiting = await penguin.subjects.restoring()
        for tier, incarnation in waiting.items():
            screen().print(f"{tier} waits for `penguin erasure replay` (incarnation {incarnation})")
        if not waiting:
            screen().print(Text("no tier waits for a replay", style="dim"))

    act(work())


def _table(orders: list[tuple[Entry, list[str]]]) -> RenderableType:
    if not orders:
        return Text("no erasures", style="dim")
    lines = Table(
        ids("erasure"), ids("tenant"), "subject", "ordered", "contents", box=None, header_style="dim", pad_edge=False
    )
    for order, keys in orders:
        lines.add_row(
            str(order.erasure_id), str(order.tenant_id), escape(order.subject[:16]) + "…",
            f"{order.at:%Y-%m-%d %H:%M:%S}", str(len(keys)),
        )  # fmt: skip
    return lines
