"""`up`, `logs`, `down` and `env`: the local stack from a shell. The work is the stack's own; here it is asked and shown."""

from __future__ import annotations

import asyncio
import shlex
import signal
import time
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from penguin_cli.logfiles import Followed, last_lines
from penguin_cli.surroundings import USAGE, CommandError, act, root_of, screen, told
from penguin_devstack.layout import WORKLOADS
from penguin_devstack.stack import LocalStack
from penguin_devstack.stack_state import StackState

_FOLLOW_EVERY_S = 0.2


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Local stack")(up)
    app.command(rich_help_panel="Local stack")(logs)
    app.command(rich_help_panel="Local stack")(down)
    app.command(rich_help_panel="Local stack")(env)


def up(
    context: typer.Context,
    detach: Annotated[
        bool,
        typer.Option("--detach/--foreground", help="Leave it running, or stay, show its logs and end it on Ctrl-C."),
    ] = True,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
) -> None:
    """Start five databases, Valkey, SMTP and OTLP receivers, issuer, five services, relay and worker.

    Data of earlier runs is kept; a stack that is up already is left as it is.
    """
    stack = LocalStack(root_of(context), workers=workers, tied_to_caller=not detach)
    if not detach and stack.status().supervisor is not None:
        with told():
            raise CommandError("the stack is up already; `penguin logs -f` shows its logs")
    act(_up(stack, detach))


async def _up(stack: LocalStack, detach: bool) -> None:
    out = screen()
    begun = time.monotonic()
    await bring_up(stack, out)
    out.print(f"up after [bold]{time.monotonic() - begun:.1f} s[/]; logs in {escape(str(stack.root / 'logs'))}")
    if detach:
        out.print("`penguin status` shows it, `penguin demo` runs the main job, `penguin down` stops it")
        return
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await _follow(stack, sorted(stack.status().components), stopped, lines=0)
    finally:
        out.print("stopping …")
        await stack.down()


async def bring_up(stack: LocalStack, out: Console) -> StackState:
    """Bring the stack up, showing what is still awaited. Raises StackError with the reason."""
    statuses: dict[str, str] = {}
    with Progress(
        SpinnerColumn(), TextColumn("[bold]stack"), BarColumn(24), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(), TextColumn("{task.description}"), console=out, transient=True, disable=not out.is_terminal,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=1)

        def changed(component: str, status: str) -> None:
            statuses[component] = status
            waiting = [name for name, each in statuses.items() if each == "starting"]
            up_now = sum(each in ("ready", "done") for each in statuses.values())
            progress.update(task, total=len(statuses), completed=up_now, description=" ".join(waiting)[:80])

        return await stack.up(changed)


def logs(
    context: typer.Context,
    component: Annotated[str | None, typer.Argument(help="One component; all of them without it.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="Last lines of each.")] = 20,
) -> None:
    """Show what components have logged."""
    stack = LocalStack(root_of(context))
    known = sorted(path.stem for path in (stack.root / "logs").glob("*.log"))
    with told():
        if not known:
            raise CommandError(f"there are no logs in {stack.root}; `penguin up` starts the stack")
        if component is not None and component not in known:
            raise CommandError(f"there is no log of {component}; there are {', '.join(known)}")
    chosen = known if component is None else [component]
    if follow:
        act(_follow(stack, chosen, asyncio.Event(), lines))
        return
    for name in chosen:
        for line in last_lines(stack.log_path(name), lines):
            typer.echo(line if component else f"{name:<14} {line}")


async def _follow(stack: LocalStack, components: list[str], stopped: asyncio.Event, lines: int) -> None:
    followed = {name: Followed(stack.log_path(name), lines) for name in components}
    while not stopped.is_set():
        for name, log in followed.items():
            for line in log.new_lines():
                typer.echo(line if len(components) == 1 else f"{name:<14} {line}")
        try:
            async with asyncio.timeout(_FOLLOW_EVERY_S):
                await stopped.wait()
        except TimeoutError:
            continue


def down(context: typer.Context) -> None:
    """Stop everything, and clean up what a killed stack left. Nothing running is no error."""
    stack = LocalStack(root_of(context))
    act(_down(stack))


async def _down(stack: LocalStack) -> None:
    out = screen()
    before = Counter(each.status for each in stack.status().components.values() if each.process is not None)
    with out.status("stopping …"):
        await stack.down()
    out.print(f"stopped {before.total()} processes" if before else "nothing was running")


def env(
    context: typer.Context,
    workload: Annotated[str, typer.Option(help=f"As whom to call: {', '.join(WORKLOADS)}.")] = "cli",
) -> None:
    """Print what a client of the local stack needs in its environment: eval "$(penguin env)"."""
    root = root_of(context)
    with told():
        if workload not in WORKLOADS:
            raise CommandError(f"there is no workload {workload}; there are {', '.join(WORKLOADS)}", USAGE)
        variables = LocalStack(root).environment(workload)
    for name, value in sorted({**variables, "PENGUIN_ROOT": str(root)}.items()):
        typer.echo(f"export {name}={shlex.quote(value)}")
