"""Receipts of reconcile between the wire and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin_chassis.barrier import Step
from penguin_chassis.mutations import step_of
from penguin_chassis.wire import number, stamp, uuid_or_none
from penguin_oltp.domain.reconcile import PLATFORM, Finding, Progress, Run, Terms


def step(request: Any) -> Step:
    """The mutation's step: the platform's, whichever tenant it concerns."""
    return replace(step_of(request), tenant_id=PLATFORM)


def terms(wire: pb.ReconcileTerms) -> Terms:
    """What a run may do."""
    grace_s = int(wire.grace.ToTimedelta().total_seconds())
    return Terms(uuid_or_none(wire.tenant_id) or PLATFORM, wire.apply, grace_s, wire.cap)


def min_interval(request: pb.StartReconcileRunRequest) -> timedelta:
    """How long ago the last run must have begun."""
    return timedelta(seconds=request.min_interval.ToTimedelta().total_seconds())


def owed(oldest: Mapping[str, datetime], at: datetime) -> pb.OwedToOthers:
    """How long the oldest of what is owed has waited, by destination."""
    told = pb.OwedToOthers()
    for destination, since in oldest.items():
        told.oldest_age[destination].FromTimedelta(max(timedelta(), at - since))
    return told


def progress_of(wire: pb.ReconcileProgress) -> Progress:
    """How far a part has come."""
    return Progress(UUID(wire.tenant_id), wire.part, wire.to_generation, wire.done, dict(wire.counts))


def finding_of(wire: pb.ReconcileFinding) -> Finding:
    """One finding."""
    return Finding(UUID(wire.tenant_id), wire.kind, wire.subject, wire.source, wire.action)


def run(row: Run) -> pb.ReconcileRun:
    """A stored receipt."""
    told = pb.ReconcileTerms(
        tenant_id="" if row.tenant_id == PLATFORM else str(row.tenant_id), apply=row.apply, cap=row.cap
    )
    told.grace.FromSeconds(row.grace_s)
    return pb.ReconcileRun(
        id=str(row.id), terms=told, status=number(pb.ReconcileStatus, row.status), started_at=stamp(row.started_at),
        finished_at=stamp(row.finished_at), refused_reason=row.refused_reason, counts=row.counts,
    )  # fmt: skip


def progress(row: Progress) -> pb.ReconcileProgress:
    """Stored progress."""
    return pb.ReconcileProgress(
        tenant_id=str(row.tenant_id), part=row.part, to_generation=row.to_generation, done=row.done, counts=row.counts
    )


def finding(row: Finding) -> pb.ReconcileFinding:
    """A stored finding."""
    return pb.ReconcileFinding(
        tenant_id=str(row.tenant_id), kind=row.kind, subject=row.subject, source=row.source, action=row.action
    )
