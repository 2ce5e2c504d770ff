"""ReconcileService: every method, by its contract. All of them are the platform's."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.contract.cases import Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.oltp.v1 import reconcile_service_pb2 as pb

SERVICE = "penguin.oltp.v1.ReconcileService"
UNKNOWN = str(uuid4())
CLEAR = "UPDATE reconcile_runs SET status = 'finished', finished_at = now() WHERE status = 'running'"


def terms(world: World) -> pb.ReconcileTerms:
    return pb.ReconcileTerms(tenant_id=str(world.tenant), apply=True, grace=Duration(seconds=60), cap=10)


async def start(world: World) -> Any:
    return pb.StartReconcileRunRequest(request_id=str(uuid4()), id=str(uuid4()), owner=str(uuid4()), terms=terms(world))


async def started(world: World) -> tuple[str, str]:
    """A run that is under way: its id and its owner."""
    request = await start(world)
    reply = await world.call(f"{SERVICE}/StartReconcileRun", request)
    return reply.run.id, request.owner


async def ended(world: World) -> None:
    """A run that has come to its end."""
    run_id, owner = await started(world)
    finish = pb.FinishReconcileRunRequest(request_id=str(uuid4()), run_id=run_id, owner=owner)
    await world.call(f"{SERVICE}/FinishReconcileRun", finish)


async def record(world: World) -> Any:
    run_id, owner = await started(world)
    progress = pb.ReconcileProgress(
        tenant_id=str(world.tenant), part="keys", to_generation=7, counts={"found.orphans": 1, "keys": 5}
    )
    request = pb.RecordReconcileProgressRequest(request_id=str(uuid4()), run_id=run_id, owner=owner, progress=progress)
    request.findings.add(tenant_id=str(world.tenant), kind="orphan", subject="k/1", source="content.contents")
    return request


async def finish(world: World) -> Any:
    request = await record(world)
    await world.call(f"{SERVICE}/RecordReconcileProgress", request)
    return pb.FinishReconcileRunRequest(request_id=str(uuid4()), run_id=request.run_id, owner=request.owner)


def check_finished(request: Any, reply: Any) -> None:
    assert (reply.run.id, reply.run.status) == (request.run_id, pb.RECONCILE_STATUS_FINISHED)
    assert dict(reply.run.counts) == {"found.orphans": 1, "keys": 5}


async def last_progress(world: World) -> Any:
    request = await record(world)
    request.progress.done = True
    await world.call(f"{SERVICE}/RecordReconcileProgress", request)
    return pb.GetReconcileProgressRequest(tenant_id=request.progress.tenant_id, part=request.progress.part)


def check_progress(request: Any, reply: Any) -> None:
    assert (reply.progress.part, reply.progress.to_generation) == (request.part, 7)
    assert reply.HasField("owed"), "whoever owes nothing says so"


async def get(world: World) -> Any:
    run_id, _ = await started(world)
    return pb.GetReconcileRunRequest(run_id=run_id)


async def list_five(world: World) -> Any:
    for _ in range(5):
        await ended(world)
    return pb.ListReconcileRunsRequest()


async def five_findings(world: World) -> Any:
    request = await record(world)
    for n in range(2, 6):
        request.findings.add(tenant_id=str(world.tenant), kind="dangling", subject=f"k/{n}", source="oltp.emails")
    await world.call(f"{SERVICE}/RecordReconcileProgress", request)
    return pb.ListReconcileFindingsRequest(run_id=request.run_id)


def elsewhere(request: Any) -> None:
    request.run_id = UNKNOWN


async def runs(world: World, request: Any) -> Any:
    """This tenant's runs, and what they found."""
    reply = await world.call(f"{SERVICE}/ListReconcileRuns", pb.ListReconcileRunsRequest(page_size=1000))
    found = [run for run in reply.runs if run.terms.tenant_id == str(world.tenant)]
    listed = [
        await world.call(f"{SERVICE}/ListReconcileFindings", pb.ListReconcileFindingsRequest(run_id=run.id))
        for run in found
    ]
    return found, listed


class TestReconcileService(ServiceContract):
    service = SERVICE
    tiers = ("oltp",)

    @pytest.fixture
    async def world(self, world: World) -> World:
        """No run is under way: one that a test has left would bar the next, and none may be begun before its end."""
        async with (await world.database()).maintenance() as connection:
            await connection.execute(CLEAR)
        return world

    cases = (
        Case(
            "StartReconcileRun",
            start,
            lambda request, reply: equal((reply.run.id, reply.run.terms), (request.id, request.terms)),
            ("terms.cap", lambda r: setattr(r.terms, "cap", -1)),
            "it makes what is not there",
            mutation=Mutation(runs, vary=lambda r: setattr(r.terms, "cap", 11)),
        ),
        Case(
            "RecordReconcileProgress",
            record,
            lambda request, reply: equal(reply.HasField("leased_until"), True),
            ("progress.part", lambda r: setattr(r.progress, "part", "No Part")),
            elsewhere,
            mutation=Mutation(runs, vary=lambda r: setattr(r.progress, "done", True)),
        ),
        Case(
            "FinishReconcileRun",
            finish,
            check_finished,
            ("run_id", lambda r: setattr(r, "run_id", "x")),
            elsewhere,
            mutation=Mutation(runs, vary=lambda r: setattr(r, "refused_reason", "other")),
        ),
        Case(
            "GetReconcileProgress",
            last_progress,
            check_progress,
            ("part", lambda r: setattr(r, "part", "No Part")),
            Within(
                lambda r: setattr(r, "part", "subjects"),
                lambda reply: equal(reply.HasField("progress"), False),
            ),
        ),
        Case(
            "GetReconcileRun",
            get,
            lambda request, reply: equal((reply.run.id, reply.run.status), (request.run_id, 1)),
            ("run_id", lambda r: setattr(r, "run_id", "x")),
            elsewhere,
        ),
        Case(
            "ListReconcileRuns",
            list_five,
            lambda request, reply: equal(len(reply.runs) >= 5, True),
            ("page_size", lambda r: setattr(r, "page_size", -1)),
            "a list of nothing is empty",
            listing=Listing("runs", 5),
        ),
        Case(
            "ListReconcileFindings",
            five_findings,
            lambda request, reply: equal(len(reply.findings), 5),
            ("run_id", lambda r: setattr(r, "run_id", "x")),
            elsewhere,
            listing=Listing("findings", 5),
        ),
    )
