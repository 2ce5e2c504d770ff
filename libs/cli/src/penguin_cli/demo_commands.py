"""`demo`: the main job end to end, with what it found in `.local/demo/summary.json`. Here the stack is brought up and taken
down around it, and meanwhile the demo itself is imported."""

from __future__ import annotations

import asyncio
import importlib
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from penguin_cli.demo.summary import Summary
from penguin_cli.stack_commands import bring_up
from penguin_cli.surroundings import FAILED, act, root_of, screen
from penguin_devstack.stack import LocalStack

# As many leads as are shipped.
LEADS = 1000


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="The main job")(demo)


def demo(
    context: typer.Context,
    emails: Annotated[int, typer.Option(min=1, max=LEADS, help="How many to send.")] = LEADS,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed simulates the same events.")] = 1,
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
    begun = time.monotonic()
    try:
        await _on_a_stack(root, emails, seed, keep, summary, out)
    except BaseException as error:
        # A group's own words say nothing.
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        interrupted = isinstance(error, asyncio.CancelledError | KeyboardInterrupt)
        summary.error = "interrupted" if interrupted else str(error) or type(error).__name__
        raise
    finally:
        summary.figures["total_s"] = round(time.monotonic() - begun, 2)
        summary.write(path)
        summary.show(out)
        out.print(f"[dim]{path}[/]")
    if not summary.ok:
        raise typer.Exit(FAILED)


async def _on_a_stack(root: Path, emails: int, seed: int, keep: bool, summary: Summary, out: Console) -> None:
    was_up = LocalStack(root).status().status == "ready"
    stack = LocalStack(root, tied_to_caller=not keep)
    importing = asyncio.create_task(asyncio.to_thread(importlib.import_module, "penguin_cli.demo.run"))
    try:
        with summary.phase("stack up"):
            if not was_up:
                await bring_up(stack, out)
        summary.figures["stack_up_s"] = summary.phases["stack up"]
        out.print("the stack was up" if was_up else f"stack up after {summary.phases['stack up']:.1f} s")
        await (await importing).run(stack, emails, seed, summary, out)
    finally:
        if not was_up and not keep:
            with summary.phase("stack down"):
                await stack.down()
