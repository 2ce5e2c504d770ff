"""Closes a tenant while a saga of it is under way: after one of its steps, or as a step is refused, so that what was begun is
undone in a closed tenant. The points are read from the definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

from libs.orchestrator.tests.sagas.crashes import refusal
from libs.orchestrator.tests.sagas.scenarios import Begun, World

from penguin.tier.v1 import tier_service_pb2 as pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import Act, Definition, Registry, Step
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.journal import Held

CALLED = "SELECT count(*) FROM outbox WHERE tenant_id = $1 AND kind = 'create_admin_events'"


@dataclass(frozen=True)
class Closing:
    """After which step's action the tenant is closed (nothing: before the first), or at whose refusal."""

    step: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{'as it refuses' if self.refused else 'after'} {self.step or 'nothing'}"


def closings(definition: Definition) -> list[Closing]:
    """Every point. Past the pivot nothing is undone: a refusal there is stuck, whether the tenant is closed or not."""
    steps = [step.name for step in definition.steps]
    refused = [Closing(name, refused=True) for name in steps if not definition.decided(name)]
    return [Closing(""), *map(Closing, steps), *refused]


async def _everywhere(world: World, tenant: UUID, method: str) -> None:
    for tier in world.tiers.values():
        request = getattr(pb, f"{method}Request")(tenant_id=str(tenant), request_id=str(uuid4()))
        await tier.call(getattr(tier.stub(TierServiceStub), method), request)


async def reopen(world: World, tenant: UUID) -> None:
    """Let the tenant change things again: others of the tests may share it."""
    await _everywhere(world, tenant, "ReopenTenant")


def _closed(world: World, definition: Definition, tenant: UUID, closing: Closing) -> Definition:
    def marked(step: Step) -> Act:
        async def act(deed: Deed) -> Mapping[str, Any] | None:
            if closing.refused:
                await _everywhere(world, tenant, "CloseTenant")
                raise refusal(step.tier)
            result = await step.act(deed)
            await _everywhere(world, tenant, "CloseTenant")
            return result

        return act

    steps = [replace(step, act=marked(step)) if step.name == closing.step else step for step in definition.steps]
    return replace(definition, steps=tuple(steps))


async def ended(world: World, definition: Definition, begun: Begun, closing: Closing) -> Held:
    """The saga as it ended, its tenant being closed at that point; it must have ended, and called nobody."""
    if not closing.step:
        await _everywhere(world, begun.tenant, "CloseTenant")
    engine = Engine(world.tiers, Registry([_closed(world, definition, begun.tenant, closing)]))
    held, _ = await engine.journal.create(
        definition.kind, definition.version, begun.tenant, begun.input, saga_id=keys.new_id(), subject=begun.subject
    )
    await engine.run(held, patience_s=5.0)
    held = await engine.journal.get(begun.tenant, held.id)
    assert held.state in {"succeeded", "compensated", "abandoned"}, f"{held.state}: {held.last_error}"
    if held.state == "abandoned":
        assert held.last_error.endswith("FAILED_PRECONDITION TENANT_CLOSED")
    assert await world.count("oltp", begun.tenant, CALLED) == 0, "somebody is called for what nobody can mend"
    return held
