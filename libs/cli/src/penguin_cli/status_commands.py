"""`status`: every component of the local stack, and what each tier says of itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_cli.session import connected
from penguin_cli.surroundings import UNREACHABLE, CommandError, act, root_of, screen
from penguin_devstack.stack import LocalStack
from penguin_devstack.stack_state import StackState
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError

_STATUS_DEADLINE_S = 2.0
_STYLES = {"ready": "green", "done": "dim", "failed": "bold red", "restarting": "yellow", "held": "yellow"}


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="Local stack")(status)


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
