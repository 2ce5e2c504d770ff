"""`schedule`: jobs by the clock. Each command is one call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1 import schedule_service_pb2 as pb
from penguin.queue.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from penguin_chassis.wire import number, word
from penguin_cli.lookups import DEADLINE_S, PAGE, TenantName, each, tenant_of
from penguin_cli.queue_commands import Priority
from penguin_cli.session import connected
from penguin_cli.surroundings import act, root_of, screen
from penguin_orchestrator import keys


class Missed(StrEnum):
    """What becomes of missed runs."""

    SKIP = "skip"
    RUN_ONCE = "run-once"
    RUN_ALL = "run-all"


class Overlap(StrEnum):
    """What becomes of a run whose predecessor's job is not over."""

    ALLOW = "allow"
    SKIP = "skip"


Name = Annotated[str, typer.Argument(help="The schedule's name.", metavar="NAME")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Schedules: jobs by the clock.", no_args_is_help=True)
    for name, command in (
        ("list", list_), ("get", get), ("put", put), ("delete", delete), ("run", run), ("pause", pause),
        ("resume", resume), ("next", next_),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="schedule", rich_help_panel="Operations")


def _ask(
    context: typer.Context, tenant: str, called: str, draw: Callable[[Any], RenderableType], **fields: Any
) -> None:
    """Call one of the service's methods for the tenant, and show what is drawn of its answer."""

    async def work() -> None:
        async with connected(root_of(context)) as penguin:
            request = getattr(pb, f"{called}Request")(tenant_id=str(await tenant_of(penguin, tenant)), **fields)
            if "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = str(keys.new_id())
            tier = penguin.tiers["queue"]
            method = getattr(tier.stub(ScheduleServiceStub), called)
            if "page_size" in fields:
                answer: Any = [row async for row in each(tier, method, request, "schedules")]
            else:
                answer = await tier.insist(method, request, deadline_s=DEADLINE_S)
        screen().print(draw(answer))

    act(work())


def list_(context: typer.Context, tenant: TenantName) -> None:
    """List the tenant's schedules, and when each runs next."""
    _ask(context, tenant, "ListSchedules", table, page_size=PAGE)


def get(context: typer.Context, name: Name, tenant: TenantName) -> None:
    """Show all that is known of a schedule, but for its payload."""
    _ask(context, tenant, "GetSchedule", lambda r: facts(r.schedule), name=name)


def next_(
    context: typer.Context,
    name: Name,
    tenant: TenantName,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=20, help="How many.")] = 5,
) -> None:
    """Show a schedule's next times; of one that is paused, as if it were resumed now."""

    def times(reply: pb.GetScheduleResponse) -> RenderableType:
        return Text("\n".join(_at(moment) for moment in reply.next_times))

    _ask(context, tenant, "GetSchedule", times, name=name, next_times=count)


def put(
    context: typer.Context,
    name: Name,
    cron: Annotated[str, typer.Argument(help="Five fields, as '30 2 * * MON-FRI'.", metavar="CRON")],
    tenant: TenantName,
    kind: Annotated[str, typer.Option("--kind", "-k", help="The kind of its jobs, as etl.run.")],
    time_zone: Annotated[str, typer.Option("--zone", "-z", help="IANA name, as Europe/Berlin.")] = "UTC",
    payload: Annotated[str, typer.Option(help="A JSON object of ids; @FILE reads it, @- from input.")] = "{}",
    priority: Annotated[Priority | None, typer.Option(help="Of its jobs.", show_default="the queue's")] = None,
    rank: Annotated[int, typer.Option(min=-1000, max=1000, help="Order within the priority, lower first.")] = 0,
    max_attempts: Annotated[int, typer.Option(min=0, max=100, help="Attempts; 0: as the queue says.")] = 0,
    missed: Annotated[Missed, typer.Option(help="What becomes of missed runs.")] = Missed.RUN_ONCE,
    deadline: Annotated[float, typer.Option(min=1, max=86400, help="Seconds after which a run is missed.")] = 60.0,
    overlap: Annotated[Overlap, typer.Option(help="While the last run's job is not over.")] = Overlap.ALLOW,
    paused: Annotated[bool, typer.Option("--paused", help="Let it rest from the start.")] = False,
) -> None:
    """Make a schedule, or make one exactly so: what is not given is as by default."""
    schedule = pb.Schedule(
        name=name, cron=" ".join(cron.split()), time_zone=time_zone, kind=kind, payload=_read(payload), rank=rank,
        priority=number(jobs_pb.JobPriority, priority), max_attempts=max_attempts, paused=paused,
        missed_runs=number(pb.MissedRunPolicy, missed.replace("-", "_")), overlap=number(pb.OverlapPolicy, overlap),
    )  # fmt: skip
    schedule.start_deadline.FromMilliseconds(int(deadline * 1000))
    _ask(context, tenant, "PutSchedule", lambda r: _said(r.schedule), schedule=schedule)


def delete(context: typer.Context, name: Name, tenant: TenantName) -> None:
    """End a schedule. Jobs that it has enqueued stay."""
    _ask(context, tenant, "DeleteSchedule", lambda _: Text(f"{name} is gone"), name=name)


def run(context: typer.Context, name: Name, tenant: TenantName) -> None:
    """Enqueue a schedule's job now, once, beside its times."""

    def told(reply: pb.RunScheduleResponse) -> RenderableType:
        return Text(f"job {reply.job_id}")

    _ask(context, tenant, "RunSchedule", told, name=name)


def pause(context: typer.Context, name: Name, tenant: TenantName) -> None:
    """Let a schedule rest: times that pass meanwhile are none of its."""
    _ask(context, tenant, "PauseSchedule", lambda r: _said(r.schedule), name=name)


def resume(context: typer.Context, name: Name, tenant: TenantName) -> None:
    """End the rest: it runs from its next time on."""
    _ask(context, tenant, "ResumeSchedule", lambda r: _said(r.schedule), name=name)


def _read(payload: str) -> bytes:
    if not payload.startswith("@"):
        return payload.encode()
    return sys.stdin.buffer.read() if payload == "@-" else Path(payload[1:]).read_bytes()


def table(rows: Sequence[pb.Schedule]) -> RenderableType:
    """One line a schedule."""
    if not rows:
        return Text("no schedules", style="dim")
    lines = Table("name", "cron", "zone", "kind", "next", "last", "job", "missed", box=None, header_style="dim",
                  pad_edge=False)  # fmt: skip
    for row in rows:
        lines.add_row(
            escape(row.name), escape(row.cron), escape(row.time_zone), escape(row.kind), _next(row),
            _at(row.last_at) if row.HasField("last_at") else "", str(row.last_job_id or ""), str(row.missed or ""),
        )  # fmt: skip
    return lines


def facts(row: pb.Schedule) -> RenderableType:
    """All that is known of one schedule."""
    lines = Table("", "", box=None, show_header=False, pad_edge=False)
    lines.columns[0].style = "dim"
    for name, value in {
        "name": escape(row.name),
        "cron": f"{escape(row.cron)} in {escape(row.time_zone)}",
        "kind": escape(row.kind),
        "priority": word(jobs_pb.JobPriority, row.priority, "the queue's") + (f" {row.rank:+d}" if row.rank else ""),
        "attempts": str(row.max_attempts or "the queue's"),
        "missed runs": f"{word(pb.MissedRunPolicy, row.missed_runs)} after {row.start_deadline.ToTimedelta()}",
        "overlap": word(pb.OverlapPolicy, row.overlap),
        "next": _next(row),
        "last": f"{_at(row.last_at)}, job {row.last_job_id}" if row.HasField("last_at") else "never",
        "missed": str(row.missed),
        "created": _at(row.created_at),
        "changed": _at(row.updated_at),
    }.items():
        lines.add_row(name, value)
    return lines


def _said(row: pb.Schedule) -> Text:
    return Text.from_markup(f"{escape(row.name)}: {_next(row)}")


def _next(row: pb.Schedule) -> str:
    return _at(row.next_at) if row.HasField("next_at") else "[yellow]paused[/]"


def _at(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
