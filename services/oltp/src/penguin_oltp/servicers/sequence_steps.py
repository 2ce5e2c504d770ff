"""SequenceStepService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import sequence_step_service_pb2 as pb
from penguin.oltp.v1 import sequence_step_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_chassis.wire import uuid_or_none
from penguin_oltp.servicers import sequence_steps_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.sequence_steps import SequenceStepStore


class SequenceStepServicer(sequence_step_service_pb2_grpc.SequenceStepServiceServicer):
    """The steps of campaigns."""

    def __init__(self, db: Database) -> None:
        self._sequence_steps = SequenceStepStore(db)

    async def CreateSequenceStep(
        self, request: pb.CreateSequenceStepRequest, context: Any
    ) -> pb.CreateSequenceStepResponse:
        at = now()
        sequence_step = wire.new_sequence_step(UUID(request.tenant_id), request.sequence_step, at)
        created = await self._sequence_steps.create(step_of(request, request.sequence_step, at=at), sequence_step)
        return pb.CreateSequenceStepResponse(sequence_step=wire.sequence_step(created))

    async def GetSequenceStep(self, request: pb.GetSequenceStepRequest, context: Any) -> pb.GetSequenceStepResponse:
        found = await self._sequence_steps.get(UUID(request.tenant_id), UUID(request.sequence_step_id))
        return pb.GetSequenceStepResponse(sequence_step=wire.sequence_step(found))

    async def ListSequenceSteps(
        self, request: pb.ListSequenceStepsRequest, context: Any
    ) -> pb.ListSequenceStepsResponse:
        page = Page(request)
        found = await self._sequence_steps.list_page(
            UUID(request.tenant_id), page.after, page.limit, campaign_id=uuid_or_none(request.campaign_id)
        )
        return pb.ListSequenceStepsResponse(
            sequence_steps=map(wire.sequence_step, page.shown(found)), next_page_token=page.next(found)
        )

    async def UpdateSequenceStep(
        self, request: pb.UpdateSequenceStepRequest, context: Any
    ) -> pb.UpdateSequenceStepResponse:
        changes = wire.changed_sequence_step(request)
        updated = await self._sequence_steps.update(
            step_of(request), UUID(request.sequence_step_id), request.etag, changes
        )
        return pb.UpdateSequenceStepResponse(sequence_step=wire.sequence_step(updated))

    async def DeleteSequenceStep(
        self, request: pb.DeleteSequenceStepRequest, context: Any
    ) -> pb.DeleteSequenceStepResponse:
        await self._sequence_steps.delete(step_of(request), UUID(request.sequence_step_id), request.etag)
        return pb.DeleteSequenceStepResponse()
