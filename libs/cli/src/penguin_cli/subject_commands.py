"""`subject`: one person, by address: erased, exported, kept by a legal hold."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
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
from penguin_cli.charts import ids
from penguin_cli.lookups import TenantName, id_of, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import FAILED, CommandError, act, root_of, screen
from penguin_orchestrator.sagas.exports import Exported

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
        ("erase", erase), ("export", export), ("exports", exports), ("hold", hold), ("holds", holds),
        ("release", release),
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
    tenant: TenantName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file; - is standard output.", metavar="FILE")],
    address: Annotated[str, typer.Argument(help="The person's email address.", metavar="ADDRESS")] = "",
    now: Annotated[bool, typer.Option("--now", help="Only what is to be had now; nothing is kept meanwhile.")] = False,
    resume: Annotated[str, typer.Option(help="Go on with this export, and fetch it.", metavar="ID")] = "",
) -> None:
    """Write all that the tiers hold of a person, one line of JSON a record. Who had it exported is on record.

    Once begun it is finished by whichever process, and waits for seven days to be fetched; a tier that is away is waited for.
    Ends with 1 where a part is missing.
    """
    if bool(address) == bool(resume) or (now and resume):
        raise typer.BadParameter("name a person, or an export to go on with (--resume)")

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            tenant_id, subjects = await tenant_of(penguin, tenant), penguin.subjects
            if now:
                _all_there(await _written(out, subjects.tell(tenant_id, address)))
                return
            export_id = id_of(resume, "export") if resume else None
            if export_id is None:
                export_id = await subjects.export(
                    tenant_id, address, begun=lambda begun: screen(errors=True).print(f"export {begun}")
                )
            else:
                await subjects.resume_export(tenant_id, export_id)
            _all_there(await _written(out, subjects.exported(tenant_id, export_id)))
            await subjects.drop_export(tenant_id, export_id)

    act(work())


async def _written(out: Path, records: AsyncIterator[Exported]) -> list[str]:
    """Write records, and tell their number; returns what is missing."""
    counts: Counter[str] = Counter()
    missing: list[str] = []
    with sys.stdout.buffer if str(out) == "-" else out.open("wb") as file:
        async for record in records:
            file.write(record.line())
            counts[f"{record.tier} {record.table}"] += not record.missing
            missing += [f"{record.tier}: {record.missing}"] if record.missing else []
    for place, count in sorted(counts.items()):
        if count:
            screen(errors=True).print(f"{count:>8}  {place}")
    return missing


def _all_there(missing: Sequence[str]) -> None:
    if missing:
        raise CommandError("not all is there: " + "; ".join(missing), FAILED)


def exports(
    context: typer.Context,
    tenant: TenantName,
    address: Annotated[str, typer.Option(help="Only of this person.", metavar="ADDRESS")] = "",
) -> None:
    """List who had whose data exported, the oldest first; persons by their HMAC."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            tenant_id = await tenant_of(penguin, tenant)
            found = [each async for each in penguin.subjects.exports(tenant_id, address)]
        screen().print(_exports(found))

    act(work())


def hold(
    context: typer.Context,
    tenant: TenantName,
    reason: Annotated[str, typer.Option(help="Why; names no person.", show_default=False)],
    address: Annotated[str, typer.Option(help="Keep this person.", metavar="ADDRESS")] = "",
    key: Annotated[str, typer.Option(help="Keep what stands under this storage key.", metavar="KEY")] = "",
) -> None:
    """Keep a person, or a content, from being erased, deleted or let go by age, in every tier, until the hold is released.

    Of a person, what is there by now is kept, and what comes later.
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
        if receipt.skipped_by:
            counts = f"{counts or 'not told'}; skipped by {escape(receipt.skipped_by)}"
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


def _exports(found: Sequence[pb.SubjectExport]) -> RenderableType:
    if not found:
        return Text("no exports", style="dim")
    lines = Table(ids("export"), "person", "asked", "by", box=None, header_style="dim", pad_edge=False)
    for each in found:
        lines.add_row(
            each.id, f"{each.subject[:16]}…", f"{each.asked_at.ToDatetime():%Y-%m-%d %H:%M:%S}", escape(each.actor)
        )
    return lines


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
