"""`queue list|put|move|pause|resume|pauses|weight|weights|top`: queues for those who run the platform."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.queue.v1 import queue_admin_service_pb2 as pb
from penguin.queue.v1 import queue_service_pb2 as jobs_pb
from penguin.queue.v1.queue_admin_service_pb2_grpc import QueueAdminServiceStub
from penguin_chassis.wire import number, word
from penguin_cli.lookups import DEADLINE_S, PAGE, each, tenant_of
from penguin_cli.queue_commands import Priority
from penguin_cli.session import connected
from penguin_cli.status_commands import ago
from penguin_cli.surroundings import USAGE, CommandError, act, root_of, screen
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.platform import Penguin

TOP_TENANTS = 10
RATE = "JOBS/SECONDS, or JOBS/SECONDS:BURST, as 400/86400:20"


class DeadLetters(StrEnum):
    """What becomes of jobs that are out of attempts."""

    KEEP = "keep"
    DISCARD = "discard"


QueueName = Annotated[str, typer.Argument(help="The queue's name.", metavar="QUEUE")]
OfQueue = Annotated[str | None, typer.Option("--queue", "-q", help="All jobs of a queue.")]
OfKind = Annotated[str | None, typer.Option("--kind", "-k", help="All jobs of a kind; with a tenant: its own of it.")]
OfTenant = Annotated[str | None, typer.Option("--tenant", "-t", help="All jobs of a tenant, by its id or name.")]


def add_to(group: typer.Typer) -> None:
    """Add these commands to the group."""
    for name, command in (
        ("list", list_), ("put", put), ("move", move), ("pause", pause), ("resume", resume), ("pauses", pauses),
        ("weight", weight), ("weights", weights), ("top", top),
    ):  # fmt: skip
        group.command(name, rich_help_panel="Queues")(command)


def list_(context: typer.Context) -> None:
    """List the queues: what holds for their jobs, and which kinds are in them."""
    act(_list(root_of(context)))


async def _list(root: Path) -> None:
    table = Table("queue", "state", "priority", "attempts", "back-off", "lost leases", "in flight", "rates", "completed", "dead letters", "kinds",
                  box=None, header_style="bold", pad_edge=False)  # fmt: skip
    async with connected(root) as penguin:
        queue = penguin.tiers["queue"]
        stub = queue.stub(QueueAdminServiceStub)
        async for row in each(queue, stub.ListQueues, pb.ListQueuesRequest(page_size=PAGE), "queues"):
            table.add_row(
                escape(row.name), "[yellow]paused[/]" if row.paused else "", word(jobs_pb.JobPriority, row.priority),
                str(row.max_attempts), f"{_span(row.retry.base)} to {_span(row.retry.cap)}", str(row.lost_lease_limit),
                f"at most {row.max_in_flight:,}" if row.max_in_flight else "", _rates(row), _long(row.completed_retention),
                "discarded" if row.dead_letters == pb.DEAD_LETTERS_DISCARD else _long(row.dead_retention), escape(", ".join(row.kinds)),
            )  # fmt: skip
    screen().print(table)


def put(
    context: typer.Context,
    name: QueueName,
    default_priority: Annotated[Priority, typer.Option("--priority", help="Of jobs that have none.")] = Priority.NORMAL,
    max_attempts: Annotated[int, typer.Option(min=1, max=100, help="Attempts before a dead letter.")] = 10,
    backoff_base: Annotated[float, typer.Option(min=0.001, max=86400, help="First back-off, seconds.")] = 1.0,
    backoff_cap: Annotated[float, typer.Option(min=0.001, max=604800, help="Longest back-off, seconds.")] = 3600.0,
    lost_leases: Annotated[int, typer.Option(min=0, max=100, help="Leases lost before it is poison.")] = 5,
    max_in_flight: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Jobs in workers' hands at once; 0: no limit.")
    ] = 0,
    rate: Annotated[str, typer.Option(help=f"Leases of all its jobs: {RATE}.", metavar="RATE")] = "",
    tenant_rate: Annotated[str, typer.Option(help="The same of each tenant.", metavar="RATE")] = "",
    key_rate: Annotated[str, typer.Option(help="The same of each rate key of a tenant.", metavar="RATE")] = "",
    completed_retention: Annotated[float, typer.Option(min=1, max=2160, help="Completed jobs stay, hours.")] = 168.0,
    dead_retention: Annotated[float, typer.Option(min=1, max=3650, help="Dead letters stay, days.")] = 365.0,
    dead_letters: Annotated[DeadLetters, typer.Option(help="Jobs out of attempts: kept, or history only.")] = (
        DeadLetters.KEEP
    ),
) -> None:
    """Make a queue, or make one exactly so: what is not given is as by default."""
    queue = pb.Queue(
        name=name, max_attempts=max_attempts, lost_lease_limit=lost_leases, max_in_flight=max_in_flight,
        priority=number(jobs_pb.JobPriority, default_priority), dead_letters=number(pb.DeadLetters, dead_letters),
    )  # fmt: skip
    queue.completed_retention.FromSeconds(int(completed_retention * 3600))
    queue.dead_retention.FromSeconds(int(dead_retention * 86400))
    queue.retry.base.FromMilliseconds(int(backoff_base * 1000))
    queue.retry.cap.FromMilliseconds(int(backoff_cap * 1000))
    for field, text in ((queue.rate, rate), (queue.tenant_rate, tenant_rate), (queue.key_rate, key_rate)):
        if text:
            field.CopyFrom(rate_of(text))
    act(_do(root_of(context), "PutQueue", pb.PutQueueRequest(request_id=str(uuid4()), queue=queue), f"{name} is set"))


def rate_of(text: str) -> pb.RateLimit:
    """A rate as people write it; raises BadParameter where it is none."""
    found = re.fullmatch(r"(\d+)/(\d+(?:\.\d+)?)(?::(\d+))?", text)
    if found is None:
        raise typer.BadParameter(f"{text} is no rate: it is {RATE}")
    rate = pb.RateLimit(jobs=int(found[1]), burst=int(found[3] or 0))
    rate.per.FromMilliseconds(int(float(found[2]) * 1000))
    return rate


def move(
    context: typer.Context,
    name: QueueName,
    kinds: Annotated[list[str], typer.Argument(help="Kinds of jobs, as email.send.", metavar="KIND…")],
) -> None:
    """Put kinds of jobs into a queue, with all their jobs."""
    request = pb.MoveKindsRequest(request_id=str(uuid4()), queue=name, kinds=kinds)
    act(_do(root_of(context), "MoveKinds", request, f"{', '.join(kinds)} now in {name}"))


def pause(context: typer.Context, queue: OfQueue = None, kind: OfKind = None, tenant: OfTenant = None) -> None:
    """Let jobs rest: none of them is leased from now on; what is in workers' hands goes on."""
    act(_rest(root_of(context), queue, kind, tenant, paused=True))


def resume(context: typer.Context, queue: OfQueue = None, kind: OfKind = None, tenant: OfTenant = None) -> None:
    """End the rest of exactly what was paused."""
    act(_rest(root_of(context), queue, kind, tenant, paused=False))


async def _rest(root: Path, queue: str | None, kind: str | None, tenant: str | None, *, paused: bool) -> None:
    if (queue is not None) == (kind is not None or tenant is not None):
        raise CommandError("name a queue, or a kind, or a tenant (of one kind, if you like)", USAGE)
    async with connected(root) as penguin:
        target = await _target(penguin, queue, kind, tenant)
        request = (pb.PauseJobsRequest if paused else pb.ResumeJobsRequest)(request_id=str(uuid4()), target=target)
        await _call(penguin.tiers["queue"], "PauseJobs" if paused else "ResumeJobs", request)
    screen().print(f"{escape(said_of(target))}: {'at rest' if paused else 'resumed'}")


async def _target(penguin: Penguin, queue: str | None, kind: str | None, tenant: str | None) -> pb.PauseTarget:
    if tenant is not None:
        tenant_id = str(await tenant_of(penguin, tenant))
        return pb.PauseTarget(tenant=pb.TenantPause(tenant_id=tenant_id, kind=kind or ""))
    return pb.PauseTarget(queue=queue) if queue is not None else pb.PauseTarget(kind=kind or "")


def pauses(context: typer.Context) -> None:
    """List everything that rests."""
    act(_pauses(root_of(context)))


async def _pauses(root: Path) -> None:
    out = screen()
    async with connected(root) as penguin:
        queue = penguin.tiers["queue"]
        stub = queue.stub(QueueAdminServiceStub)
        resting = [
            target async for target in each(queue, stub.ListPauses, pb.ListPausesRequest(page_size=PAGE), "pauses")
        ]
    for target in resting:
        out.print(escape(said_of(target)))
    if not resting:
        out.print("nothing rests")


def weight(
    context: typer.Context,
    tenant: Annotated[str, typer.Argument(help="The tenant, by its id or name.", metavar="TENANT")],
    weight: Annotated[
        int, typer.Argument(min=0, max=10_000, metavar="WEIGHT", help="As against 100 of others; 0: as theirs.")
    ],
) -> None:
    """Say how large a tenant's part of the workers is where there are too few of them."""
    act(_weight(root_of(context), tenant, weight))


async def _weight(root: Path, tenant: str, weight: int) -> None:
    async with connected(root) as penguin:
        own = pb.TenantWeight(tenant_id=str(await tenant_of(penguin, tenant)), weight=weight)
        request = pb.SetTenantWeightRequest(request_id=str(uuid4()), weight=own)
        await _call(penguin.tiers["queue"], "SetTenantWeight", request)
    screen().print(f"{escape(tenant)} has {f'a weight of {weight}' if weight else 'an ordinary weight'}")


def weights(context: typer.Context) -> None:
    """List the tenants that have a weight of their own."""
    act(_weights(root_of(context)))


async def _weights(root: Path) -> None:
    table = Table("tenant", "weight", box=None, header_style="bold", pad_edge=False)
    async with connected(root) as penguin:
        queue = penguin.tiers["queue"]
        stub = queue.stub(QueueAdminServiceStub)
        async for each_ in each(queue, stub.ListTenantWeights, pb.ListTenantWeightsRequest(page_size=PAGE), "weights"):
            table.add_row(each_.tenant_id, str(each_.weight))
    screen().print(table if table.row_count else "all tenants are ordinary ones")


def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print it once instead of a live view.")] = False,
    every: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Watch all tenants' jobs: what waits, since when, what is in flight, and whose it is. Ctrl-C ends it."""
    act(_top(root_of(context), once=once or not screen().is_terminal, every_s=every))


async def _top(root: Path, *, once: bool, every_s: float) -> None:
    async with connected(root) as penguin:
        queue = penguin.tiers["queue"]
        request = pb.GetDepthsRequest(top_tenants=TOP_TENANTS)
        if once:
            screen().print(view(await _call(queue, "GetDepths", request), time.time()))
            return
        with Live(console=screen(), auto_refresh=False, screen=True) as live:
            while True:
                live.update(view(await _call(queue, "GetDepths", request), time.time()), refresh=True)
                await asyncio.sleep(every_s)


def view(depths: pb.GetDepthsResponse, now: float) -> RenderableType:
    """Depths as tables."""
    kinds = Table("queue", "kind", "priority", "ready", "oldest", "scheduled", "held", "in flight", "dead", box=None,
                  header_style="bold", pad_edge=False)  # fmt: skip
    for each_ in depths.kinds:
        oldest = each_.oldest_ready_at.ToDatetime(UTC).timestamp() if each_.HasField("oldest_ready_at") else None
        kinds.add_row(
            escape(each_.queue), escape(each_.kind), word(jobs_pb.JobPriority, each_.priority), _count(each_.ready),
            "" if oldest is None else ago(max(0.0, now - oldest)), _count(each_.scheduled), _count(each_.held),
            _count(each_.leased), f"[red]{each_.dead:,}[/]" if each_.dead else "",
        )  # fmt: skip
    tenants = Table("tenant", "waiting", "in flight", box=None, header_style="bold", pad_edge=False)
    for tenant in depths.tenants:
        tenants.add_row(tenant.tenant_id, _count(tenant.waiting), _count(tenant.leased))
    counted = datetime.fromtimestamp(depths.computed_at.seconds, UTC)
    heading = Text(f"counted at {counted:%H:%M:%S} UTC", style="dim")
    parts: list[RenderableType] = [heading, kinds if depths.kinds else Text("no jobs")]
    if depths.rates:
        parts += [Text(), _flows(depths.rates)]
    if depths.tenants:
        parts += [Text(), tenants]
    return Group(*parts)


def _flows(rates: Sequence[pb.KindRate]) -> Table:
    table = Table("queue", "kind", "enqueued/s", "completed/s", "dead/s", "dead of ended", box=None, header_style="bold",
                  pad_edge=False)  # fmt: skip
    for rate in rates:
        dead = f"{rate.dead_letter_ratio:.1%}" if rate.HasField("dead_letter_ratio") else ""
        table.add_row(
            escape(rate.queue), escape(rate.kind), f"{rate.enqueued_per_second:,.1f}", f"{rate.completed_per_second:,.1f}",
            f"[red]{rate.dead_per_second:,.1f}[/]" if rate.dead_per_second else "", dead,
        )  # fmt: skip
    return table


def said_of(target: pb.PauseTarget) -> str:
    """Whose jobs a pause is about."""
    if target.HasField("tenant"):
        return f"tenant {target.tenant.tenant_id}" + (f", kind {target.tenant.kind}" if target.tenant.kind else "")
    return f"kind {target.kind}" if target.kind else f"queue {target.queue}"


def _count(jobs: int) -> str:
    return f"{jobs:,}" if jobs else ""


def _rates(queue: pb.Queue) -> str:
    named = ((queue.rate, ""), (queue.tenant_rate, " a tenant"), (queue.key_rate, " a key"))
    rates = [(rate, whose) for rate, whose in named if rate.jobs]
    return ", ".join(f"{rate.jobs:,} in {_span(rate.per)}{whose}" for rate, whose in rates)


def _span(duration: Any) -> str:
    return f"{duration.ToTimedelta().total_seconds():g} s"


def _long(duration: Any) -> str:
    hours = duration.ToTimedelta().total_seconds() / 3600
    return f"{hours / 24:g} d" if hours >= 24 else f"{hours:g} h"


async def _do(root: Path, name: str, request: Any, done: str) -> None:
    async with connected(root) as penguin:
        await _call(penguin.tiers["queue"], name, request)
    screen().print(escape(done))


async def _call(queue: Tier, name: str, request: Any) -> Any:
    return await queue.insist(getattr(queue.stub(QueueAdminServiceStub), name), request, deadline_s=DEADLINE_S)
