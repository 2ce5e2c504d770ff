"""`subject`: one person, by address: erased, exported, kept by a legal hold."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin_cli.lookups import TenantName, id_of, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import FAILED, CommandError, act, root_of, screen

MENTIONS_SHOWN = 50


class Holder(StrEnum):
    """Tiers that keep what a hold names."""

    OLTP = "oltp"
    CONTENT = "content"
    NOTIFICATIONS = "notifications"


Address = Annotated[str, typer.Argument(help="The person's email address.", metavar="ADDRESS")]
InTier = Annotated[Holder, typer.Option("--tier", help="The tier that keeps it.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="One person: erased, exported, kept by a legal hold.", no_args_is_help=True)
    for name, command in (
        ("erase", erase), ("export", export), ("hold", hold), ("holds", holds), ("release", release),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="subject", rich_help_panel="Operations")


def erase(
    context: typer.Context,
    address: Address,
    tenant: TenantName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a person from every tier, for good, and show the tiers' receipts and where others mention them."""
    if not yes:
        typer.confirm(f"Erase {address} for good?", abort=True)

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            erasure = await penguin.subjects.erase(await tenant_of(penguin, tenant), address)
        screen().print(told(erasure))

    act(work())


def export(
    context: typer.Context,
    address: Address,
    tenant: TenantName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file; - is standard output.", metavar="FILE")],
) -> None:
    """Write all that the tiers hold of a person, one line of JSON a record. Ends with 1 where a tier is missing."""

    async def work() -> None:
        counts: Counter[str] = Counter()
        missing: list[str] = []
        async with connected(root_of(context)) as penguin:
            tenant_id = await tenant_of(penguin, tenant)
            with sys.stdout.buffer if str(out) == "-" else out.open("wb") as file:
                async for record in penguin.subjects.export(tenant_id, address):
                    file.write(record.line())
                    counts[f"{record.tier} {record.table}"] += not record.missing
                    missing += [f"{record.tier}: {record.missing}"] if record.missing else []
        for place, count in sorted(counts.items()):
            if count:
                screen(errors=True).print(f"{count:>8}  {place}")
        if missing:
            raise CommandError("not all is there: " + "; ".join(missing), FAILED)

    act(work())


def hold(
    context: typer.Context,
    tenant: TenantName,
    reason: Annotated[str, typer.Option(help="Why; names no person.", show_default=False)],
    address: Annotated[str, typer.Option(help="Keep this person.", metavar="ADDRESS")] = "",
    key: Annotated[str, typer.Option(help="Keep what stands under this storage key.", metavar="KEY")] = "",
) -> None:
    """Keep a person, or a content, from being erased, deleted or let go by age, in every tier, until the hold is released.

    Of a person, contents that are there by now are kept; what comes later needs a hold of its own.
    """
    if bool(address) == bool(key):
        raise typer.BadParameter("name a person (--address) or a storage key (--key)")

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            made = await penguin.subjects.hold(await tenant_of(penguin, tenant), reason, address=address, key=key)
        screen().print(str(made))

    act(work())


def holds(context: typer.Context, tenant: TenantName, tier: InTier = Holder.OLTP) -> None:
    """List a tier's holds."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            found = [each async for each in penguin.subjects.holds(tier, await tenant_of(penguin, tenant))]
        screen().print(_holds(found))

    act(work())


def release(
    context: typer.Context,
    hold_id: Annotated[str, typer.Argument(help="The hold's id.", metavar="ID")],
    tenant: TenantName,
) -> None:
    """End a hold, in every tier."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            await penguin.subjects.release(await tenant_of(penguin, tenant), id_of(hold_id, "hold"))
        screen().print(f"released {hold_id}")

    act(work())


def told(erasure: pb.Erasure) -> RenderableType:
    """An erasure: what each tier did, and where others mention the person."""
    lines = Table("tier", "erased", "at", box=None, header_style="dim", pad_edge=False)
    for receipt in erasure.receipts:
        counts = ", ".join(f"{count} {table}" for table, count in sorted(receipt.counts.items()))
        lines.add_row(receipt.tier, counts or "nothing", f"{receipt.erased_at.ToDatetime():%Y-%m-%d %H:%M:%S}")
    head = Text.from_markup(f"[bold]erasure[/] {erasure.id}\n[dim]subject {erasure.subject}[/]")
    return Group(head, lines, *_mentioned(erasure.mentions))


def _mentioned(mentions: Sequence[pb.TierMentions]) -> list[RenderableType]:
    total = sum(each.total for each in mentions)
    if not total:
        return []
    lines = Table("tier", "table", "key", "place", box=None, header_style="dim", pad_edge=False)
    rows = [(each.tier, m) for each in mentions for m in each.mentions]
    for tier, mention in rows[:MENTIONS_SHOWN]:
        lines.add_row(tier, mention.table, escape(mention.key), mention.place)
    more = f", the first {MENTIONS_SHOWN} of them here" if total > MENTIONS_SHOWN else ""
    return [Text(f"\nmentioned by others {total} times{more}; left for you to decide on", style="yellow"), lines]


def _holds(found: Sequence[tier_pb.LegalHold]) -> RenderableType:
    if not found:
        return Text("no holds", style="dim")
    lines = Table("id", "on", "since", "by", "reason", box=None, header_style="dim", pad_edge=False)
    for each in found:
        on = f"person {each.subject[:12]}…" if each.subject else f"key {each.storage_key}"
        lines.add_row(
            each.id, escape(on), f"{each.created_at.ToDatetime():%Y-%m-%d}", escape(each.actor), escape(each.reason)
        )
    return lines
