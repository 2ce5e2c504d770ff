"""`demo`: the main job end to end, with what it found in `.local/demo/summary.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penguin_cli.demo import data
from penguin_cli.demo.run import run
from penguin_cli.demo.summary import Summary
from penguin_cli.surroundings import FAILED, act, first_of, root_of, screen


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="The main job")(demo)


def demo(
    context: typer.Context,
    emails: Annotated[int, typer.Option(min=1, max=data.LEADS, help="How many to send.")] = data.LEADS,
    seed: Annotated[int, typer.Option(help="The same seed simulates the same events.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards.")] = False,
) -> None:
    """Run the main job end to end on the local stack, and check the work.

    Starts the stack if need be (and stops it again), onboards two tenants, sends a campaign of personalised emails with
    an attachment to the local SMTP server, simulates what recipients do, loads OLAP, prints report and trace, and checks
    that everything holds. Every run makes tenants of its own. Ends with 1 if any check fails.
    """
    act(_demo(root_of(context), emails, seed, keep))


async def _demo(root: Path, emails: int, seed: int, keep: bool) -> None:
    out, summary = screen(), Summary()
    path = root / "demo" / "summary.json"
    try:
        await run(root, emails, seed, summary, out, keep=keep)
    except BaseException as error:
        cause = first_of(error)
        summary.error = str(cause) or type(cause).__name__
        raise
    finally:
        summary.write(path)
        summary.show(out)
        out.print(f"[dim]{path}[/]")
    if not summary.ok:
        raise typer.Exit(FAILED)
