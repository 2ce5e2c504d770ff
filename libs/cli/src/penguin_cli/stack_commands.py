"""`up`, `status`, `logs` and `down`: the local stack from a shell. The work is the stack's own; here it is asked and shown."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_cli.logfiles import Followed, last_lines
from penguin_cli.surroundings import (
    UNREACHABLE,
    CommandError,
    act,
    connected,
    root_of,
    screen,
    told,
)
from penguin_devstack.stack import LocalStack
from penguin_devstack.stack_state import StackState
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError

_STATUS_DEADLINE_S = 2.0
_FOLLOW_EVERY_S = 0.2
_STYLES = {"ready": "green", "done": "dim", "failed": "bold red", "restarting": "yellow", "held": "yellow"}


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(rich_help_panel="Local stack")(up)
    app.command(rich_help_panel="Local stack")(status)
    app.command(rich_help_panel="Local stack")(logs)
    app.command(rich_help_panel="Local stack")(down)


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


def status(context: typer.Context) -> None:
    """Show every component, and what each tier says of itself. Ends with 3 when the stack is not ready."""
    act(_status(root_of(context)))


async def _status(root: Path) -> None:
    out, state = screen(), LocalStack(root).status()
    out.print(f"[bold]{state.status}[/]  {escape(str(root))}{_took(state)}")
    if state.components:
        out.print(component_table(state))
    if state.status != "ready":
        detail = f": {state.error}" if state.error else "; `penguin up` starts it"
        raise CommandError(f"the stack is {state.status}{detail}", UNREACHABLE)
    async with connected(root) as penguin:
        answers = await asyncio.gather(*(ask(tier) for tier in penguin.tiers.values()))
    out.print(tier_table(dict(zip(penguin.tiers, answers, strict=True))))
    if any(isinstance(answer, TierError) for answer in answers):
        raise typer.Exit(UNREACHABLE)


def _took(state: StackState) -> str:
    return f"  (up after {state.ready_after_s:.1f} s)" if state.ready_after_s else ""


async def ask(tier: Tier) -> tier_pb.GetStatusResponse | TierError:
    """What a tier says of itself, or why it says nothing, within two seconds."""
    method = tier.stub(TierServiceStub).GetStatus
    try:
        reply: tier_pb.GetStatusResponse = await tier.call(
            method, tier_pb.GetStatusRequest(), timeout=_STATUS_DEADLINE_S
        )
    except TierError as error:
        return error
    return reply


def component_table(state: StackState, now: float | None = None) -> Table:
    """The stack's components in the order they start."""
    table = Table(
        "component", "state", "pid", "port", "since", "restarts", box=None, header_style="bold", pad_edge=False
    )
    now = time.time() if now is None else now
    for name, each in sorted(state.components.items(), key=lambda item: (item[1].level, item[0])):
        style = _STYLES.get(each.status, "")
        table.add_row(
            name,
            f"[{style}]{each.status}[/]" if style else each.status,
            str(each.pid or ""),
            str(each.port or ""),
            ago(now - each.since) if each.since else "",
            str(each.restarts or ""),
        )
    return table


def tier_table(answers: dict[str, tier_pb.GetStatusResponse | TierError]) -> Table:
    """What each tier said."""
    table = Table("tier", "database", "schema", "pool", "outbox", "oldest", "up since", box=None, header_style="bold",
                  pad_edge=False)  # fmt: skip
    for name, answer in answers.items():
        if isinstance(answer, TierError):
            table.add_row(name, f"[bold red]{answer.code.name} {answer.reason}[/]")
            continue
        is_up = answer.database == tier_pb.DATABASE_STATE_UP
        applied = answer.applied_schema_version if answer.HasField("applied_schema_version") else "?"
        table.add_row(
            name,
            "[green]up[/]" if is_up else "[bold red]down[/]",
            str(applied) if applied == answer.schema_version else f"[yellow]{applied} of {answer.schema_version}[/]",
            f"{answer.pool_size}/{answer.pool_max}",
            str(answer.outbox_depth) if answer.HasField("outbox_depth") else "?",
            ago(answer.outbox_oldest_age.ToTimedelta().total_seconds()) if answer.outbox_depth else "",
            f"{answer.started_at.ToDatetime():%H:%M:%S} UTC" + (" [yellow]draining[/]" if answer.draining else ""),
        )
    return table


def ago(seconds: float) -> str:
    """A span of time in its largest unit."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


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
