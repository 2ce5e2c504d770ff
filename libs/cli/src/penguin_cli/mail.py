"""`import-mail`: mail from files into a tenant's inbox. Malformed mail is reported and never stops the rest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from penguin_cli.lookups import TenantName, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import CommandError, act, root_of, screen
from penguin_orchestrator import mailsources
from penguin_orchestrator.importing import Imported

_PROBLEMS_SHOWN = 50


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("import-mail", rich_help_panel="The main job")(import_mail)


def import_mail(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help=".eml, mbox, tar of .eml (also compressed), or a folder of these.")],
    tenant: TenantName,
    mailbox: Annotated[str, typer.Option(help="The mailbox's address it was received in.")],
) -> None:
    """Import mail with bodies and attachments. Safe to run again: what is there already is passed over."""
    act(_import(root_of(context), tenant, mailbox, path))


async def _import(root: Path, tenant: str, mailbox: str, path: Path) -> None:
    out = screen()
    begun = time.monotonic()
    async with connected(root, traced=True) as penguin:
        tenant_id = await tenant_of(penguin, tenant)
        columns = (
            TextColumn("mail"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
        )  # fmt: skip
        with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
            task = progress.add_task("", total=None)

            def show(done: Imported) -> None:
                settled = done.imported + done.existed + done.refused
                rate = settled / max(time.monotonic() - begun, 0.001)
                progress.update(task, completed=settled, total=done.seen, description=f"{rate:.0f}/s")

            done = await penguin.inbox.run(tenant_id, mailbox, mailsources.read(path), progress=show)
    took = time.monotonic() - begun
    out.print(summary(done, took))
    for name, problem in done.problems[:_PROBLEMS_SHOWN]:
        out.print(f"  [yellow]left out[/] {escape(name)}: {escape(problem)}")
    for name, defects in done.odd[:_PROBLEMS_SHOWN]:
        out.print(f"  malformed {escape(name)}: {escape(defects)}")
    if done.malformed > min(len(done.odd), _PROBLEMS_SHOWN):
        out.print(f"  … {done.malformed} malformed in all")
    if done.refused > min(len(done.problems), _PROBLEMS_SHOWN):
        out.print(f"  … {done.refused} left out in all")
    if not done.seen:
        raise CommandError(f"{path} holds no mail")


def summary(done: Imported, took_s: float) -> Table:
    """What was done, in figures."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold")
    rows = (
        (done.imported, f"imported, {done.bytes / 1e6:.1f} MB"),
        (done.existed, "were there already"),
        (done.malformed, "of the imported are malformed; what can be read of them is in the inbox"),
        (done.refused, "left out"),
    )
    for count, words in rows:
        table.add_row(f"{count:,}", words)
    settled = done.imported + done.existed
    table.add_row(f"{took_s:.1f} s", f"{settled / max(took_s, 0.001):.0f} emails/s")
    return table
