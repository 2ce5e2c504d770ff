"""Every saga, stopped at every call and every moment of it, on every way it can go, and recovered by another process: all
of it stands or nothing does, and each effect once. The points are generated from the definitions."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import pytest
from libs.orchestrator.tests.sagas.crashes import (
    BEFORE,
    EFFECT,
    REPLY,
    Place,
    killed,
    points,
    probed,
    refusals,
    tiers_that_refuse,
    told,
)
from libs.orchestrator.tests.sagas.scenarios import SCENARIOS, Begun, World

from penguin_chassis import barrier
from penguin_orchestrator import keys
from penguin_orchestrator.sagas import engine as engines
from penguin_orchestrator.sagas.definition import Definition, Registry
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.journal import FINISHED, Held, Journal
from penguin_orchestrator.sagas.known import KNOWN

DEFINITIONS = sorted(KNOWN, key=lambda each: each.id)
# What is journaled of the saga, whose owner's lease is over with it.
LEASES_END = """
WITH ended AS (UPDATE sagas SET due_at = now() - interval '1 second'
               WHERE tenant_id = $1 AND id = $2 AND due_at IS NOT NULL)
SELECT state FROM sagas WHERE tenant_id = $1 AND id = $2"""
ROUNDS = 5
TRIES = 25


class PassedByError(Exception):
    """The run did not come by the place where it was to be stopped."""


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another quickly, and however slow the machine is no heartbeat is journaled between them: each run comes
    by the same places."""
    monkeypatch.setattr(engines, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(engines, "HEARTBEAT_S", 60.0)


def an_engine(world: World, definition: Definition) -> Engine:
    """A process that knows the definition."""
    return Engine(world.tiers, Registry([probed(definition, world.probe)]), Journal(world.tiers["oltp"]))


async def begin(world: World, definition: Definition, begun: Begun, saga_id: UUID) -> None:
    """The process that begins the saga."""
    engine = an_engine(world, definition)
    held, _ = await engine.journal.create(
        definition.kind, definition.version, begun.tenant, begun.input, saga_id=saga_id, subject=begun.subject
    )
    await engine.run(held, patience_s=5.0)


async def recovered(world: World, definition: Definition, begun: Begun, saga_id: UUID) -> Held | None:
    """What other processes make of it, its owner's lease being over; None where it was never journaled."""
    for _ in range(ROUNDS):
        if not await world.rows("oltp", begun.tenant, LEASES_END, saga_id):
            return None
        engine = an_engine(world, definition)
        held = await engine.journal.get(begun.tenant, saga_id)
        if held.state in FINISHED or held.state == "stuck":
            return held
        claimed = await engine.journal.claim_one(held)
        assert claimed is not None
        await engine.run(claimed, patience_s=5.0)
    raise AssertionError(f"{definition.id} does not come to its end")


async def check_journal(world: World, definition: Definition, begun: Begun, held: Held) -> None:
    """The journal's word is final, and says of every step what became of it."""
    actions = Counter({each.state: 0 for each in held.records.values()})
    undone = {step for (step, operation) in held.records if operation == "compensation"}
    for (step, operation), record in held.records.items():
        actions[record.state] += 1
        if held.state == "succeeded":
            assert (operation, record.state) == ("action", "done"), (step, record)
        elif held.state == "compensated":
            assert operation == "action" or record.state == "done", (step, record)
            assert operation == "compensation" or step in undone or definition.step(step).undo is None, (step, record)
    if held.state == "succeeded":
        assert held.named("action") == {step.name for step in definition.steps}


async def one(
    world: World, definition: Definition, refused: tuple[str, str] | None, kill: tuple[Place, str] | None
) -> tuple[str, dict[Place, tuple[str, ...]]]:
    """Play one saga, killed there, to its end, and hold what stands against it; the end, and the places it came by."""
    scenario = SCENARIOS[definition.kind]
    world.probe.heal()
    begun = await scenario.prepare(world)
    world.probe.heal()
    world.probe.kill = kill
    if refused is not None and refused[0] in world.probe.finals and not definition.decided(refused[0]):
        world.probe.refused_there = refused[0]
    else:
        world.probe.refused = refused
    saga_id = keys.new_id()
    await killed(begin(world, definition, begun, saga_id))
    places = dict(world.probe.places)
    if kill is not None and not (world.probe.dead or world.probe.doomed):
        raise PassedByError
    world.probe.revive()
    held = await recovered(world, definition, begun, saga_id)
    if held is None:
        await scenario.check(world, begun, False)
        return "never begun", places
    if held.state == "stuck":
        # Past its pivot: it is only gone on with. Somebody mends what refused it, and says so.
        assert refused is not None
        assert definition.decided(refused[0])
        world.probe.heal()
        await world.rows(
            "oltp", begun.tenant,
            "UPDATE sagas SET state = 'running', due_at = now() WHERE tenant_id = $1 AND id = $2", saga_id,
        )  # fmt: skip
        held = await recovered(world, definition, begun, saga_id)
        assert held is not None
        assert held.state == "succeeded"
    await check_journal(world, definition, begun, held)
    await scenario.check(world, begun, held.state == "succeeded")
    return held.state, places


async def stopped_at(
    world: World, definition: Definition, refused: tuple[str, str] | None, point: tuple[Place, str]
) -> str:
    """How the saga ends that is stopped there. Steps side by side may come by a place in one run and not in the next, where
    a refusal cuts them off: such a run is played again."""
    for _ in range(TRIES):
        with contextlib.suppress(PassedByError):
            return (await one(world, definition, refused, point))[0]
    raise AssertionError("the run never came by this place")


async def played_everywhere(
    world: World, definition: Definition, refused: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Play the saga as often as there are points on this way of it; how many there were."""
    ends: Counter[str] = Counter()
    world.probe.finals = set()
    monkeypatch.setattr(barrier, "claim", tiers_that_refuse(world.probe))
    if refused is not None:
        # Which steps a tier can refuse itself.
        await one(world, definition, None, None)
    end, places = await one(world, definition, refused, None)
    # Past the pivot there is nothing to undo: what is refused there waits for somebody, wherever it was stopped.
    after = refused is not None and definition.decided(refused[0])
    assert end == ("succeeded" if refused is None or after else "compensated")
    for point in points(places, (REPLY,) if after else (BEFORE, EFFECT, REPLY)):
        try:
            ends[await stopped_at(world, definition, refused, point)] += 1
        except Exception as error:
            raise AssertionError(f"killed {point}") from error
    assert ends[end] > 0
    assert set(ends) <= {end, "never begun"}
    return f"{definition.id}, {refused[0] if refused else 'nothing'} refused: {told(ends)}"


def test_every_definition_has_its_scenario() -> None:
    assert {definition.kind for definition in DEFINITIONS} == set(SCENARIOS)


WAYS = [(definition, refused) for definition in DEFINITIONS for refused in refusals(definition)]


@pytest.mark.parametrize(
    ("definition", "refused"),
    WAYS,
    ids=[f"{d.id}-{refused[0] if refused else 'nothing refused'}" for d, refused in WAYS],
)
async def test_all_or_nothing_wherever_it_is_stopped(
    world: World, definition: Definition, refused: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    record_property("figure", await played_everywhere(world, definition, refused, monkeypatch))
