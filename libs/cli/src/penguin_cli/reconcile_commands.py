"""`reconcile`: compare the tiers, mend what can be mended, and read the receipts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1.reconcile_service_pb2_grpc import ReconcileServiceStub
from penguin_chassis.wire import word
from penguin_cli.charts import ids
from penguin_cli.lookups import DEADLINE_S, each, id_of, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import FAILED, USAGE, CommandError, act, root_of, screen
from penguin_orchestrator.reconciling.receipts import FOUND, Terms

# Findings that are shown at most; the receipt may hold more.
SHOWN = 200
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Compare the tiers with each other; without a command, run it now.")
    group.callback(invoke_without_command=True)(run)
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="reconcile", rich_help_panel="Operations")


def run(
    context: typer.Context,
    apply: Annotated[bool, typer.Option("--apply", help="Change what is wrong; else it is only told.")] = False,
    tenant: Annotated[
        str, typer.Option("--tenant", "-t", help="Only this one, by id or name.", show_default="all", metavar="TENANT")
    ] = "",
    grace: Annotated[str, typer.Option(help="How long in quarantine before deletion, as 7d, 12h, 0s.")] = "7d",
    cap: Annotated[int, typer.Option(min=0, max=1_000_000, help="Contents put aside, and deleted, at most.")] = 1000,
) -> None:
    """Compare what Content keeps with what the other tiers refer to, for closed hours only."""
    if context.invoked_subcommand:
        return

    async def work() -> None:
        waits = span_of(grace)
        async with connected(root_of(context)) as penguin:
            only = await tenant_of(penguin, tenant) if tenant else None
            receipt = await penguin.reconciler.run(Terms(apply, only, waits, cap))
        screen().print(facts(receipt))
        if receipt.status == pb.RECONCILE_STATUS_REFUSED:
            raise CommandError(f"reconcile stopped: {receipt.refused_reason}", FAILED)
        if receipt.counts.get(f"{FOUND}uncompared"):
            raise CommandError(f"not all was compared: `penguin reconcile show {receipt.id}`", FAILED)

    act(work())


def list_(context: typer.Context) -> None:
    """List the receipts, newest first."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            oltp = penguin.tiers["oltp"]
            request = pb.ListReconcileRunsRequest(page_size=50)
            method = oltp.stub(ReconcileServiceStub).ListReconcileRuns
            reply = await oltp.insist(method, request, deadline_s=DEADLINE_S)
        screen().print(table(list(reply.runs)))

    act(work())


def show(context: typer.Context, run_id: Annotated[str, typer.Argument(help="The run's id.", metavar="RUN")]) -> None:
    """Show a receipt and what was found."""

    async def work() -> None:
        known = str(id_of(run_id, "run"))
        found: list[pb.ReconcileFinding] = []
        async with connected(root_of(context)) as penguin:
            oltp = penguin.tiers["oltp"]
            stub = oltp.stub(ReconcileServiceStub)
            asked = pb.GetReconcileRunRequest(run_id=known)
            receipt = (await oltp.insist(stub.GetReconcileRun, asked, deadline_s=DEADLINE_S)).run
            listing = pb.ListReconcileFindingsRequest(run_id=known, page_size=SHOWN)
            async for finding in each(oltp, stub.ListReconcileFindings, listing, "findings"):
                found.append(finding)
                if len(found) == SHOWN:
                    break
        screen().print(Group(facts(receipt), Text(), findings(found)))

    act(work())


def span_of(text: str) -> timedelta:
    """7d, 12h, 30m or 45s. Raises CommandError."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not (number.isascii() and number.isdigit()):
        raise CommandError(f"{text!r} is no span of time, as 7d, 12h, 30m or 45s", USAGE)
    return timedelta(seconds=int(number) * _UNITS[unit])


def table(runs: list[pb.ReconcileRun]) -> RenderableType:
    """One line a run."""
    if not runs:
        return Text("no runs", style="dim")
    lines = Table(ids("run"), "started", "status", "tenant", "changes", "found", "why", box=None, header_style="dim",
                  pad_edge=False)  # fmt: skip
    for each_run in runs:
        lines.add_row(
            each_run.id, _at(each_run.started_at), word(pb.ReconcileStatus, each_run.status),
            each_run.terms.tenant_id or "all", "yes" if each_run.terms.apply else "no", _found(each_run) or "nothing",
            escape(each_run.refused_reason),
        )  # fmt: skip
    return lines


def facts(run: pb.ReconcileRun) -> RenderableType:
    """All that a receipt says, but for the findings."""
    lines = Table("", "", box=None, show_header=False, pad_edge=False)
    lines.columns[0].style = "dim"
    lines.add_row("run", run.id)
    lines.add_row("status", word(pb.ReconcileStatus, run.status))
    if run.refused_reason:
        lines.add_row("why", escape(run.refused_reason))
    lines.add_row("tenant", run.terms.tenant_id or "all")
    lines.add_row("changes", "yes" if run.terms.apply else "no, it only told")
    lines.add_row("grace, cap", f"{run.terms.grace.ToTimedelta()}, {run.terms.cap}")
    lines.add_row("started", _at(run.started_at))
    if run.HasField("finished_at"):
        lines.add_row("ended", _at(run.finished_at))
    for name, count in sorted(run.counts.items()):
        lines.add_row(escape(name), str(count))
    return lines


def findings(found: list[pb.ReconcileFinding]) -> RenderableType:
    """One line a finding."""
    if not found:
        return Text("nothing was found", style="dim")
    lines = Table(ids("tenant"), "kind", ids("subject"), "source", "done", box=None, header_style="dim", pad_edge=False)
    for each_one in found:
        lines.add_row(
            each_one.tenant_id, each_one.kind, escape(each_one.subject), each_one.source, each_one.action or "nothing"
        )
    return lines


def _found(run: pb.ReconcileRun) -> str:
    return ", ".join(
        f"{count} {name.removeprefix(FOUND)}"
        for name, count in sorted(run.counts.items())
        if name.startswith(FOUND) and count
    )


def _at(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
