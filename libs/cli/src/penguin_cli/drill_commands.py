"""`drill`: the outage contract tried on a local stack of its own, with a report of every cell."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from penguin_cli.drill import disks
from penguin_cli.drill.findings import GREEN, NOT_RUN, RED, Findings
from penguin_cli.drill.html import page
from penguin_cli.drill.matrix import Row, chosen
from penguin_cli.surroundings import FAILED, USAGE, CommandError, act, root_of, screen, told

SECONDS = 5.0


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="The main job")(drill)


def drill(
    context: typer.Context,
    rows: Annotated[
        str, typer.Option(help="Which faults: keys or their beginnings, separated by commas; all without.")
    ] = "",
    report: Annotated[
        Path | None, typer.Option(help="Folder for report.json and report.html.", show_default=".local/drill")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=120, help="How long each fault stands at least.")] = SECONDS,
) -> None:
    """Break the platform part by part, under load, and check that everything else keeps its promise.

    Starts a local stack of its own, and for each fault checks every cell of the outage contract while it stands, the
    recovery after it, and that nothing acknowledged was lost or done twice. Ends with 1 if a cell that was run is not
    green. What the machine does not allow is reported as not run. About twenty minutes for all rows.
    """
    with told():
        try:
            wanted = chosen(rows)
        except ValueError as error:
            raise CommandError(str(error), USAGE) from None
    no_disks = ""
    if any(row.fault == "fill_disk" for row in wanted):
        # Comes back only where no small disk can be had.
        no_disks = disks.enter(sys.argv[1:])
    act(_drill(wanted, report or root_of(context) / "drill", seconds, no_disks))


async def _drill(rows: tuple[Row, ...], folder: Path, seconds: float, no_disks: str) -> None:
    # What a drill needs is not needed to explain itself.
    from penguin_cli.drill import run

    out, began = screen(), time.monotonic()
    findings = Findings([], run.begun_now())
    try:
        await run.drill(
            run.Plan(rows, seconds, no_disks),
            findings,
            lambda words: out.print(f"[dim]{time.monotonic() - began:6.1f}[/] {escape(words)}"),
        )
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        interrupted = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        findings.error = "interrupted" if interrupted else str(error) or type(error).__name__
        raise
    finally:
        _write(findings, folder, out)
    if not findings.ok:
        raise typer.Exit(FAILED)


def _write(findings: Findings, folder: Path, out: Console) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(findings.as_json(), indent=1) + "\n")
    (folder / "report.html").write_text(page(findings))
    totals = findings.totals()
    colour = "green" if findings.ok else "red"
    out.print(
        f"[bold {colour}]{totals[GREEN]} cells held, {totals[RED]} broken, {totals[NOT_RUN]} not run[/] "
        f"in {findings.took_s:.0f} s: {folder / 'report.html'}"
    )
