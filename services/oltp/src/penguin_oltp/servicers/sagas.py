"""SagaService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin.oltp.v1 import saga_service_pb2_grpc
from penguin_chassis import calls
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_chassis.wire import uuid_or_none, word
from penguin_oltp.servicers import sagas_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.sagas import SagaStore


class SagaServicer(saga_service_pb2_grpc.SagaServiceServicer):
    """The journal of acts that cross tiers."""

    def __init__(self, db: Database) -> None:
        self._sagas = SagaStore(db)

    async def CreateSaga(self, request: pb.CreateSagaRequest, context: Any) -> pb.CreateSagaResponse:
        at = now()
        created = await self._sagas.create(step_of(request, at=at), wire.new_saga(request, at))
        return pb.CreateSagaResponse(saga=wire.journaled(created))

    async def AdvanceSaga(self, request: pb.AdvanceSagaRequest, context: Any) -> pb.AdvanceSagaResponse:
        moved = await self._sagas.advance(step_of(request), UUID(request.saga_id), wire.advance(request))
        return pb.AdvanceSagaResponse(saga=wire.saga(moved))

    async def ClaimSagas(self, request: pb.ClaimSagasRequest, context: Any) -> pb.ClaimSagasResponse:
        lease = wire.span(request, "lease_duration")
        if request.saga_id:
            one = await self._sagas.claim_one(*wire.named(request), request.owner, lease, now())
            return pb.ClaimSagasResponse(sagas=map(wire.journaled, one))
        claimed, others = await self._sagas.claim(
            request.owner, lease, request.max_sagas, request.definitions, now(), a_tenant=request.max_per_tenant
        )
        return pb.ClaimSagasResponse(sagas=map(wire.journaled, claimed), passed_over=others)

    async def GetSaga(self, request: pb.GetSagaRequest, context: Any) -> pb.GetSagaResponse:
        found = await self._sagas.get(UUID(request.tenant_id), UUID(request.saga_id))
        return pb.GetSagaResponse(saga=wire.journaled(found))

    async def ListSagas(self, request: pb.ListSagasRequest, context: Any) -> pb.ListSagasResponse:
        page = Page(request)
        found = await self._sagas.list_page(
            page.after, page.limit, tenant_id=uuid_or_none(request.tenant_id),
            state=word(pb.SagaState, request.state), kind=request.kind,
        )  # fmt: skip
        return pb.ListSagasResponse(sagas=map(wire.saga, page.shown(found)), next_page_token=page.next(found))

    async def RetrySaga(self, request: pb.RetrySagaRequest, context: Any) -> pb.RetrySagaResponse:
        moved = await self._sagas.retry(step_of(request), UUID(request.saga_id), _actor(), request.reason)
        return pb.RetrySagaResponse(saga=wire.journaled(moved))

    async def SkipSagaStep(self, request: pb.SkipSagaStepRequest, context: Any) -> pb.SkipSagaStepResponse:
        moved = await self._sagas.skip(
            step_of(request), UUID(request.saga_id), wire.skipped(request), _actor(), request.reason
        )
        return pb.SkipSagaStepResponse(saga=wire.journaled(moved))


def _actor() -> str:
    """Who calls, by the token."""
    call = calls.current_call()
    return call.caller.actor if call else ""
