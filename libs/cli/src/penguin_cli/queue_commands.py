"""`queue`: what a tenant has in the queue, and its say in it. Each command is one call: who moves many jobs runs it until
nothing is left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin.queue.v1.queue_service_pb2_grpc import QueueServiceStub
from penguin_chassis.wire import number
from penguin_cli import queue_tables
from penguin_cli.lookups import DEADLINE_S, TenantName, tenant_of
from penguin_cli.session import connected
from penguin_cli.surroundings import USAGE, CommandError, act, root_of, screen
from penguin_orchestrator import keys

# What a refusal names of many ids.
_SHOWN = 20
# Jobs that one call lists.
_PAGE = 1000


class State(StrEnum):
    """Where a job can stand."""

    READY = "ready"
    LEASED = "leased"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"
    HELD = "held"


class Gone(StrEnum):
    """What can be purged."""

    READY = "ready"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"
    HELD = "held"


class Holding(StrEnum):
    """Where a job can have its unique key."""

    READY = "ready"
    LEASED = "leased"
    COMPLETED = "completed"
    DEAD = "dead"


class Priority(StrEnum):
    """The order of due jobs."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


# Ids are signed, of 64 bits.
ID_MAX = 2**63 - 1
JobIds = Annotated[list[int], typer.Argument(min=1, max=ID_MAX, help="The jobs' ids, at most 1000.", metavar="ID")]
Kind = Annotated[str, typer.Option(help="Only this kind, for example email.send.", metavar="KIND")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Before = Annotated[datetime | None, typer.Option(help="UTC; only what is earlier.")]
After = Annotated[datetime | None, typer.Option(help="UTC; only what is not earlier.")]


def add_to(group: typer.Typer) -> None:
    """Add these commands to the group."""
    for command in (enqueue, stats, jobs, job, cancel, redrive, purge, priority):
        group.command(rich_help_panel="A tenant's jobs")(command)


@contextlib.asynccontextmanager
async def _queue(
    context: typer.Context, tenant: str
) -> AsyncIterator[tuple[UUID, Callable[[str, Any], Awaitable[Any]]]]:
    """The tenant's id, and a way to call one of Queue's methods by its name."""
    async with connected(root_of(context)) as penguin:
        tenant_id, tier = await tenant_of(penguin, tenant), penguin.tiers["queue"]

        async def call(method: str, request: Any) -> Any:
            return await tier.insist(getattr(tier.stub(QueueServiceStub), method), request, deadline_s=DEADLINE_S)

        yield tenant_id, call


def enqueue(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="Which handler runs it, for example email.send.", metavar="KIND")],
    tenant: TenantName,
    payloads: Annotated[
        list[str] | None,
        typer.Argument(help="JSON objects of keys and ids, one for each job; one of {} if none.", metavar="JSON"),
    ] = None,
    level: Annotated[Priority | None, typer.Option("--priority", show_default="its queue's")] = None,
    rank: Annotated[int, typer.Option(min=-1000, max=1000, help="Order within its priority, lower first.")] = 0,
    max_attempts: Annotated[
        int, typer.Option(min=0, max=100, help="Before it is a dead letter.", show_default="its queue's")
    ] = 0,
    run_at: Annotated[datetime | None, typer.Option(help="UTC; not before this.")] = None,
    rate_key: Annotated[str, typer.Option(help="Whose rate it goes by, as a mailbox's id.", metavar="KEY")] = "",
    ordering_key: Annotated[str, typer.Option(help="One at a time of these, in order.", metavar="KEY")] = "",
    unique: Annotated[str, typer.Option(help="Only if no job of its kind has this key now.", metavar="KEY")] = "",
    holds_while: Annotated[
        list[Holding] | None, typer.Option(help="Where it must stand to have its key.", show_default="ready, leased")
    ] = None,
    holds_for: Annotated[
        float | None, typer.Option(min=0.001, max=31_536_000, help="It has its key so long at most, seconds.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Who has the key, and waits, gets this payload and place.")
    ] = False,
    after: Annotated[
        list[int] | None, typer.Option(min=1, max=ID_MAX, help="Once this job is completed.", metavar="ID")
    ] = None,
    run_if_failed: Annotated[bool, typer.Option("--run-if-failed", help="Once those are over, however.")] = False,
    callback: Annotated[str, typer.Option(help="A job of this kind when all are over.", metavar="KIND")] = "",
    callback_payload: Annotated[str, typer.Option(help="What that one is to do.", metavar="JSON")] = "{}",
    batch: Annotated[
        int | None, typer.Option(min=1, max=ID_MAX, help="Of the batch with this callback job.", metavar="ID")
    ] = None,
    more: Annotated[bool, typer.Option("--more", help="The callback waits for further ones.")] = False,
) -> None:
    """Enqueue a job, or several on the same terms; as members of a batch with --callback or --batch."""
    terms = pb.NewJob(
        kind=kind, priority=number(pb.JobPriority, level), rank=rank, max_attempts=max_attempts, run_at=_stamp(run_at),
        rate_key=rate_key, ordering_key=ordering_key, waits_for=after, run_if_failed=run_if_failed,
    )  # fmt: skip
    if unique or holds_while or holds_for or replace:
        terms.unique.CopyFrom(_unique(unique, holds_while or (), holds_for, replace=replace))
    joined = _joined(callback, callback_payload, batch, more=more)
    if run_if_failed and not after:
        raise typer.BadParameter("--run-if-failed is of jobs that it comes --after")
    if joined and (after or terms.HasField("unique")):
        raise typer.BadParameter("members of a batch have no --unique key and come --after nothing")
    bodies = [each.encode() for each in payloads or ["{}"]]
    act(_enqueue_members(context, tenant, terms, bodies, joined) if joined
        else _enqueue_each(context, tenant, terms, bodies))  # fmt: skip


def _unique(key: str, holds_while: Sequence[Holding], holds_for: float | None, *, replace: bool) -> pb.UniqueKey:
    if not key:
        raise typer.BadParameter("--holds-while, --holds-for and --replace are of a --unique key")
    unique = pb.UniqueKey(
        key=key, holds_while=[number(pb.JobState, each) for each in holds_while],
        on_conflict=pb.ON_CONFLICT_REPLACE if replace else pb.ON_CONFLICT_KEEP,
    )  # fmt: skip
    if holds_for is not None:
        unique.holds_for.FromMilliseconds(int(holds_for * 1000))
    return unique


def _joined(callback: str, payload: str, batch: int | None, *, more: bool) -> pb.JobBatch | None:
    """The batch that jobs become members of; None if none."""
    if callback and batch:
        raise typer.BadParameter("a batch that there is has its callback: --callback or --batch")
    if callback:
        return pb.JobBatch(callback=pb.BatchCallback(kind=callback, payload=payload.encode()), more=more)
    if batch:
        return pb.JobBatch(callback_job_id=batch, more=more)
    if more:
        raise typer.BadParameter("--more is of a batch: give it a --callback, or name that of a --batch")
    return None


async def _enqueue_each(context: typer.Context, tenant: str, terms: pb.NewJob, bodies: Sequence[bytes]) -> None:
    request = pb.EnqueueJobsRequest(jobs=[terms] * len(bodies))
    for job, body in zip(request.jobs, bodies, strict=True):
        job.request_id, job.payload = str(keys.new_id()), body
    async with _queue(context, tenant) as (tenant_id, call):
        request.tenant_id = str(tenant_id)
        reply = await call("EnqueueJobs", request)
    for result in reply.results:
        if not result.HasField("error"):
            screen().print(f"job [bold]{result.job_id}[/]{' has the key already' if result.duplicate else ''}")
    for error in (result.error for result in reply.results if result.HasField("error")):
        raise CommandError(f"not enqueued: {f'{error.field}: ' if error.field else ''}{error.message}")


async def _enqueue_members(
    context: typer.Context, tenant: str, terms: pb.NewJob, bodies: Sequence[bytes], joined: pb.JobBatch
) -> None:
    request = pb.EnqueueBatchRequest(
        request_id=str(keys.new_id()), kind=terms.kind, payloads=bodies, priority=terms.priority, rank=terms.rank,
        run_at=terms.run_at if terms.HasField("run_at") else None, max_attempts=terms.max_attempts,
        ordering_key=terms.ordering_key, rate_key=terms.rate_key, batch=joined,
    )  # fmt: skip
    async with _queue(context, tenant) as (tenant_id, call):
        request.tenant_id = str(tenant_id)
        reply = await call("EnqueueBatch", request)
    for job_id in range(reply.first_job_id, reply.first_job_id + reply.count):
        screen().print(f"job [bold]{job_id}[/]")
    waits = "waits for them and further ones" if joined.more else "runs when all are over"
    screen().print(f"callback [bold]{reply.callback_job_id}[/] {waits}")


def stats(context: typer.Context, tenant: TenantName) -> None:
    """Count the tenant's jobs by state and priority."""

    async def work() -> None:
        async with _queue(context, tenant) as (tenant_id, call):
            reply = await call("GetQueueStats", pb.GetQueueStatsRequest(tenant_id=str(tenant_id)))
        screen().print(queue_tables.stats(reply))

    act(work())


def jobs(
    context: typer.Context,
    tenant: TenantName,
    state: Annotated[State | None, typer.Option(help="Only these.", show_default="all")] = None,
    kind: Kind = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="How many at most.")] = 50,
    every: Annotated[bool, typer.Option("--all", help="However many there are.")] = False,
) -> None:
    """List the tenant's jobs, about newest first."""

    async def work() -> None:
        left = sys.maxsize if every else limit
        request = pb.ListJobsRequest(state=number(pb.JobState, state), kind=kind)
        async with _queue(context, tenant) as (tenant_id, call):
            request.tenant_id = str(tenant_id)
            while left:
                request.page_size = min(left, _PAGE)
                reply = await call("ListJobs", request)
                if reply.jobs or not request.page_token:
                    screen().print(queue_tables.jobs(reply.jobs))
                left -= len(reply.jobs)
                request.page_token = reply.next_page_token
                if not reply.next_page_token:
                    return
        screen(errors=True).print("[dim]there are more: --limit says how many are shown, --all shows them all[/]")

    act(work())


def job(
    context: typer.Context,
    job_id: Annotated[int, typer.Argument(min=1, max=ID_MAX, help="The job's id.", metavar="ID")],
    tenant: TenantName,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show its payload, too: needs scope jobs.payloads.")
    ] = False,
) -> None:
    """Show all that is known of one job, and the attempts at it that did not end well."""

    async def work() -> None:
        body: bytes | None = None
        async with _queue(context, tenant) as (tenant_id, call):
            reply = await call("GetJob", pb.GetJobRequest(tenant_id=str(tenant_id), job_id=job_id))
            listing = pb.ListJobAttemptsRequest(tenant_id=str(tenant_id), job_id=job_id)
            attempts = (await call("ListJobAttempts", listing)).attempts
            if payload:
                asked = pb.GetJobPayloadsRequest(tenant_id=str(tenant_id), job_ids=[job_id])
                body = next((each.payload for each in (await call("GetJobPayloads", asked)).payloads), None)
        screen().print(queue_tables.job(reply.job, body))
        if attempts:
            screen().print(queue_tables.attempts(attempts))

    act(work())


def cancel(context: typer.Context, job_ids: JobIds, tenant: TenantName) -> None:
    """Cancel jobs: those that wait end at once, those in workers' hands as soon as these let go of them."""

    async def work() -> None:
        async with _queue(context, tenant) as (tenant_id, call):
            request = pb.CancelJobsRequest(tenant_id=str(tenant_id), request_id=str(keys.new_id()), job_ids=job_ids)
            reply = await call("CancelJobs", request)
        ended, marked = len(reply.cancelled_job_ids), len(reply.cancelling_job_ids)
        screen().print(f"[bold]{ended}[/] cancelled, {marked} marked (in workers' hands)")
        _refuse_skipped(reply.skipped_job_ids, "no jobs of this tenant, or over")

    act(work())


def redrive(
    context: typer.Context,
    tenant: TenantName,
    job_ids: Annotated[
        list[int] | None, typer.Argument(min=1, max=ID_MAX, help="Dead letters' ids.", metavar="ID")
    ] = None,
    kind: Kind = "",
    error: Annotated[str, typer.Option(help="Only those whose last error begins so, for example smtp.")] = "",
    before: Before = None,
    after: After = None,
    every: Annotated[bool, typer.Option("--all", help="Whatever there is.")] = False,
    most: Annotated[int, typer.Option("--max", min=1, max=1000, help="By a filter: how many at most.")] = 1000,
    dry_run: DryRun = False,
) -> None:
    """Make dead letters ready again, with fresh attempts: the named ones, or those that died as the options say. Where another job
    has got its unique key meanwhile, a dead letter runs beside that one."""
    filtered = bool(kind or error or before or after or every)
    request = pb.RedriveJobsRequest(request_id=str(keys.new_id()), job_ids=job_ids, dry_run=dry_run)
    if filtered:
        request.max_jobs = most
        request.filter.CopyFrom(
            pb.DeadJobFilter(
                kind=kind, error_prefix=error, finished_before=_stamp(before), finished_after=_stamp(after)
            )
        )
    act(_redrive(context, tenant, request, right=filtered != bool(job_ids)))


async def _redrive(context: typer.Context, tenant: str, request: pb.RedriveJobsRequest, *, right: bool) -> None:
    if not right:
        raise CommandError("name dead letters by their ids, or by --kind, --error, --before, --after, or --all", USAGE)
    async with _queue(context, tenant) as (tenant_id, call):
        request.tenant_id = str(tenant_id)
        reply = await call("RedriveJobs", request)
    _tell(reply.redriven, "made ready again", reply.sample_job_ids, dry_run=request.dry_run)
    if reply.remaining:
        screen().print(f"{reply.remaining:,} more match; run it again for these")
    _refuse_skipped(reply.skipped_job_ids, "no dead letters of this tenant")


def purge(
    context: typer.Context,
    state: Annotated[Gone, typer.Argument(help="Which jobs; ready ones are all that wait.")],
    tenant: TenantName,
    kind: Kind = "",
    before: Annotated[datetime | None, typer.Option(help="UTC; only what was created earlier.")] = None,
    most: Annotated[int, typer.Option("--max", min=1, max=5000, help="How many at most.")] = 5000,
    dry_run: DryRun = False,
) -> None:
    """Remove jobs for good. Those in workers' hands are never touched."""

    async def work() -> None:
        async with _queue(context, tenant) as (tenant_id, call):
            chosen = pb.PurgeFilter(state=number(pb.JobState, state), kind=kind, created_before=_stamp(before))
            request = pb.PurgeJobsRequest(
                tenant_id=str(tenant_id), request_id=str(keys.new_id()), filter=chosen, max_jobs=most, dry_run=dry_run
            )
            reply = await call("PurgeJobs", request)
        _tell(reply.purged, "removed", reply.sample_job_ids, dry_run=dry_run)
        if reply.more:
            screen().print("more match; run it again for these")

    act(work())


def priority(
    context: typer.Context,
    level: Annotated[Priority, typer.Argument(help="The priority they get.", metavar="PRIORITY")],
    job_ids: JobIds,
    tenant: TenantName,
    rank: Annotated[
        int | None,
        typer.Option(min=-1000, max=1000, help="Order within it, lower first.", show_default="each job's own"),
    ] = None,
) -> None:
    """Give jobs that wait another place in the order."""

    async def work() -> None:
        async with _queue(context, tenant) as (tenant_id, call):
            request = pb.SetJobPriorityRequest(
                tenant_id=str(tenant_id), request_id=str(keys.new_id()), job_ids=job_ids,
                priority=number(pb.JobPriority, level), rank=rank,
            )  # fmt: skip
            reply = await call("SetJobPriority", request)
        screen().print(f"[bold]{reply.changed}[/] given priority {level}")
        _refuse_skipped(reply.skipped_job_ids, "no jobs of this tenant, leased, or over")

    act(work())


def _stamp(at: datetime | None) -> Timestamp | None:
    if at is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(at if at.tzinfo else at.replace(tzinfo=UTC))
    return stamp


def _tell(count: int, done: str, sample: Sequence[int], *, dry_run: bool) -> None:
    screen().print(f"[bold]{count:,}[/] {'would be ' if dry_run else ''}{done}")
    if sample:
        rest = " …" if count > len(sample) else ""
        screen().print(f"[dim]{', '.join(map(str, sample))}{rest}[/]")


def _refuse_skipped(ids: Sequence[int], why: str) -> None:
    if ids:
        rest = " …" if len(ids) > _SHOWN else ""
        raise CommandError(f"{len(ids)} passed over ({why}): {', '.join(map(str, ids[:_SHOWN]))}{rest}")
