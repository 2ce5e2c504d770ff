"""Draws what Queue says of a tenant's jobs. It reads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from penguin.queue.v1 import queue_service_pb2 as pb
from penguin_chassis.wire import word

_STYLES = {"ready": "cyan", "leased": "blue", "completed": "green", "dead": "bold red", "cancelled": "yellow",
           "discarded": "red", "held": "magenta"}  # fmt: skip
_PRIORITIES = (pb.JOB_PRIORITY_HIGH, pb.JOB_PRIORITY_NORMAL, pb.JOB_PRIORITY_LOW)


def stats(reply: pb.GetQueueStatsResponse) -> RenderableType:
    """Counts by state and priority, and since when the oldest due job waits."""
    table = Table("", "high", "normal", "low", "all", box=None, header_style="dim", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    counts = {(each.state, each.priority): each.count for each in reply.counts}
    for state, style in _STYLES.items():
        row = [counts.get((pb.JobState.Value(f"JOB_STATE_{state.upper()}"), level), 0) for level in _PRIORITIES]
        table.add_row(f"[{style}]{state}[/]", *(f"{each:,}" for each in (*row, sum(row))))
    if not reply.HasField("oldest_due_at"):
        return Group(table, Text("nothing is due", style="dim"))
    return Group(table, Text(f"the oldest due job is due since {_at(reply.oldest_due_at)}"))


def jobs(rows: Sequence[pb.Job]) -> RenderableType:
    """One line a job."""
    if not rows:
        return Text("no such jobs", style="dim")
    table = Table("id", "kind", "state", "priority", "attempts", "created", "run at", "last error", box=None,
                  header_style="dim", pad_edge=False)  # fmt: skip
    for row in rows:
        table.add_row(
            str(row.id), escape(row.kind), _state(row), _priority(row), f"{row.attempts}/{row.max_attempts}",
            _at(row.created_at), _at(row.run_at), escape(row.last_error),
        )  # fmt: skip
    return table


def job(row: pb.Job, payload: bytes | None) -> RenderableType:
    """All that is known of one job; its payload where it was asked for."""
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    table.columns[0].style = "dim"
    facts = {
        "id": str(row.id),
        "kind": escape(row.kind),
        "state": _state(row),
        "priority": _priority(row),
        "created": _at(row.created_at),
        "run at": _at(row.run_at),
        "leased until": _at(row.leased_until) if row.HasField("leased_until") else "",
        "finished": _at(row.finished_at) if row.HasField("finished_at") else "",
        "attempts": f"{row.attempts} of {row.max_attempts}",
        "lost leases": str(row.lost_leases or ""),
        "put off": str(row.snoozes or ""),
        "rate key": escape(row.rate_key),
        "ordering key": escape(row.ordering_key),
        "waits for": f"{row.waits} jobs" if row.waits else "",
        "callback": str(row.callback_job_id or ""),
        "batch": _batch(row.batch) if row.HasField("batch") else "",
        "last error": escape(row.last_error),
        "progress": _progress(row.progress) if row.HasField("progress") else "",
        "result": escape(row.result),
        "trace": escape(row.traceparent),
        "payload": "" if payload is None else escape(payload.decode(errors="replace")),
    }
    for name, value in facts.items():
        if value:
            table.add_row(name, value)
    return table


def attempts(rows: Sequence[pb.JobAttempt]) -> RenderableType:
    """Attempts that did not end well, one line each."""
    table = Table("attempt", "ended", "how", "error", "message", "worker", box=None, header_style="dim", pad_edge=False)
    for row in rows:
        table.add_row(
            str(row.attempt), _at(row.finished_at), word(pb.AttemptOutcome, row.outcome), escape(row.error),
            escape(row.message), escape(row.worker_id),
        )  # fmt: skip
    return table


def _progress(told: pb.JobProgress) -> str:
    share = f" of {told.total:,} ({told.done / told.total:.0%})" if told.total else ""
    note = f", {escape(told.note)}" if told.note else ""
    return f"{told.done:,}{share}{note} [dim]at {_at(told.told_at)}[/]"


def _batch(done: pb.BatchProgress) -> str:
    more = ", more to come" if done.open else ""
    return f"{done.total} jobs: {done.completed} completed, {done.dead} dead, {done.cancelled} cancelled{more}"


def _state(row: pb.Job) -> str:
    state = word(pb.JobState, row.state)
    marked = " [yellow]to be cancelled[/]" if row.cancel_wanted else ""
    return f"[{_STYLES.get(state, 'default')}]{state}[/]{marked}"


def _priority(row: pb.Job) -> str:
    rank = f" {row.rank:+d}" if row.rank else ""
    return word(pb.JobPriority, row.priority) + rank


def _at(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
