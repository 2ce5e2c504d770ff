"""A step that nobody can finish is seen to by hand and skipped: the saga then comes to its end, whatever builds on the step.
Generated from the definitions."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.sagas.scenarios import SCENARIOS, World
from libs.orchestrator.tests.sagas.test_crash_points import DEFINITIONS, an_engine, begin, brisk, recovered

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.leads import ImportedLeads
from penguin_orchestrator.sagas.definition import ACTION, Definition
from penguin_orchestrator.sagas.journal import Held

__all__ = ["brisk"]


async def skip(world: World, tenant: UUID, saga_id: UUID, step: str) -> None:
    """As an operator does."""
    oltp = world.tiers["oltp"]
    request = pb.SkipSagaStepRequest(
        tenant_id=str(tenant), request_id=str(uuid4()), saga_id=str(saga_id), step=step,
        operation=pb.SAGA_OPERATION_ACTION, reason="seen to by hand",
    )  # fmt: skip
    await oltp.call(oltp.stub(SagaServiceStub).SkipSagaStep, request)


async def ended_without(world: World, definition: Definition, step: str) -> tuple[UUID, Held]:
    """The saga's tenant, and the saga as it ended after that step of it was refused, and skipped."""
    begun, saga_id = await SCENARIOS[definition.kind].prepare(world), keys.new_id()
    world.probe.heal()
    world.probe.refused = (step, ACTION)
    await begin(world, definition, begun, saga_id)
    stuck = await an_engine(world, definition).journal.get(begun.tenant, saga_id)
    assert (stuck.state, stuck.records[step, ACTION].state) == ("stuck", "begun")
    world.probe.heal()
    await skip(world, begun.tenant, saga_id, step)
    held = await recovered(world, definition, begun, saga_id)
    assert held is not None
    return begun.tenant, held


SKIPPED = [(each, step.name) for each in DEFINITIONS for step in each.steps if each.decided(step.name)]


@pytest.mark.parametrize(("definition", "step"), SKIPPED, ids=[f"{d.id}-{step}" for d, step in SKIPPED])
async def test_whatever_step_is_skipped_the_saga_comes_to_its_end(
    world: World, definition: Definition, step: str
) -> None:
    _, held = await ended_without(world, definition, step)
    assert held.state == "succeeded"
    assert list(held.skipped) == [step]
    if definition.kind == "leads.import":
        ImportedLeads.of(held)  # whoever waited for it is told
