"""ReconcileService on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1 import reconcile_service_pb2_grpc
from penguin_chassis import outbox
from penguin_chassis.mutations import now
from penguin_chassis.paging import next_token, page_size, page_start
from penguin_chassis.pool import Database
from penguin_chassis.wire import stamp
from penguin_oltp.servicers import reconcile_wire as wire
from penguin_oltp.store.reconcile import ReconcileStore

_NEWEST = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))
_FIRST = (UUID(int=0), "", "")


class ReconcileServicer(reconcile_service_pb2_grpc.ReconcileServiceServicer):
    """The receipts of reconcile."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._runs = ReconcileStore(db)

    async def StartReconcileRun(
        self, request: pb.StartReconcileRunRequest, context: Any
    ) -> pb.StartReconcileRunResponse:
        started = await self._runs.start(
            wire.step(request), UUID(request.id), UUID(request.owner), wire.terms(request.terms),
            wire.min_interval(request),
        )  # fmt: skip
        return pb.StartReconcileRunResponse(run=wire.run(started.run), progress=map(wire.progress, started.progress))

    async def RecordReconcileProgress(
        self, request: pb.RecordReconcileProgressRequest, context: Any
    ) -> pb.RecordReconcileProgressResponse:
        until = await self._runs.record(
            wire.step(request), UUID(request.run_id), UUID(request.owner), wire.progress_of(request.progress),
            [wire.finding_of(each) for each in request.findings],
        )  # fmt: skip
        return pb.RecordReconcileProgressResponse(leased_until=stamp(until))

    async def FinishReconcileRun(
        self, request: pb.FinishReconcileRunRequest, context: Any
    ) -> pb.FinishReconcileRunResponse:
        run = await self._runs.finish(
            wire.step(request), UUID(request.run_id), UUID(request.owner), request.refused_reason
        )
        return pb.FinishReconcileRunResponse(run=wire.run(run))

    async def GetReconcileProgress(
        self, request: pb.GetReconcileProgressRequest, context: Any
    ) -> pb.GetReconcileProgressResponse:
        tenant_id = UUID(request.tenant_id)
        last = await self._runs.last_progress(tenant_id, request.part)
        owed = wire.owed(await outbox.oldest(self._db, tenant_id), now())
        return pb.GetReconcileProgressResponse(progress=wire.progress(last) if last is not None else None, owed=owed)

    async def GetReconcileRun(self, request: pb.GetReconcileRunRequest, context: Any) -> pb.GetReconcileRunResponse:
        return pb.GetReconcileRunResponse(run=wire.run(await self._runs.get(UUID(request.run_id))))

    async def ListReconcileRuns(
        self, request: pb.ListReconcileRunsRequest, context: Any
    ) -> pb.ListReconcileRunsResponse:
        size = page_size(request.page_size)
        start = page_start(request, lambda key: (datetime.fromisoformat(key[0]), UUID(key[1])), _NEWEST)
        found = await self._runs.list_runs(start, size + 1)
        last = found[size - 1] if len(found) > size else None
        token = next_token(request, [last.started_at.isoformat(), str(last.id)]) if last else ""
        return pb.ListReconcileRunsResponse(runs=map(wire.run, found[:size]), next_page_token=token)

    async def ListReconcileFindings(
        self, request: pb.ListReconcileFindingsRequest, context: Any
    ) -> pb.ListReconcileFindingsResponse:
        size = page_size(request.page_size)
        start = page_start(request, lambda key: (UUID(key[0]), str(key[1]), str(key[2])), _FIRST)
        found = await self._runs.list_findings(UUID(request.run_id), start, size + 1)
        last = found[size - 1] if len(found) > size else None
        token = next_token(request, [str(last.tenant_id), last.kind, last.subject]) if last else ""
        return pb.ListReconcileFindingsResponse(findings=map(wire.finding, found[:size]), next_page_token=token)
