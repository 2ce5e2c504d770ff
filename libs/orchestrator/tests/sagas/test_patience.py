"""How long the engine bears failures: as long as patience lasts since something last worked, and then others try, for so many
rounds in a row. Over the real journal; the steps are this test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest
from libs.orchestrator.tests.sagas.scenarios import World
from libs.orchestrator.tests.sagas.test_engine import Script, _is, brisk, carried, script, unknown
from libs.orchestrator.tests.stored import until

from penguin_orchestrator import keys
from penguin_orchestrator.erasure_ledger import LedgerAwayError, LedgerError
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas import engine as engines
from penguin_orchestrator.sagas.carrying import SagaStuckError, SagaUnfinishedError
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import ACTION, Definition, Registry, Step
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.recovery import Recovery

__all__ = ["brisk", "script"]


async def test_a_ledger_that_is_away_is_waited_for_and_one_that_is_wrong_calls_somebody(
    world: World, script: Script
) -> None:
    definition = script.definition("a", "b", pivot="a")
    script.fails["b", ACTION] = [LedgerAwayError("the ledger cannot be written (OSError)")]
    waiting = asyncio.create_task(carried(world, definition))
    await until(lambda: _is(len(script.seen.get("b", [])) > engines.REFUSALS))
    script.fails.clear()
    assert (await waiting).state == "succeeded"
    script.fails["b", ACTION] = [LedgerError("record 1 of the ledger was changed")]
    with pytest.raises(SagaStuckError):
        await carried(world, definition)


async def test_when_patience_ends_it_is_given_back_and_another_finishes_it(world: World, script: Script) -> None:
    definition, tenant = script.definition("a", "b", pivot="b"), uuid4()
    script.fails["b", ACTION] = [unknown()]
    with pytest.raises(SagaUnfinishedError) as unfinished:
        await carried(world, definition, patience_s=0.05, tenant=tenant)
    assert isinstance(unfinished.value.__cause__, TierError)
    script.fails.clear()
    recovery = asyncio.create_task(Recovery(Engine(world.tiers, Registry([definition]))).run())
    journal = Engine(world.tiers, Registry([definition])).journal

    async def finished() -> bool:
        return (await journal.get(tenant, unfinished.value.held.id)).state == "succeeded"

    try:
        await until(finished, within_s=20)
    finally:
        recovery.cancel()
    assert script.did == [("a", ACTION), ("b", ACTION)]


async def test_patience_is_with_failures_since_something_last_worked(world: World) -> None:
    tried: list[int] = []

    async def act(deed: Deed) -> Mapping[str, Any]:
        tried.append(deed.so_far.get("done", 0))
        await asyncio.sleep(0.1)  # it works for longer than failures are borne, and comes further each time
        if len(tried) < 6:
            deed.report(done=len(tried))
            raise unknown()
        return {}

    definition = Definition(f"test.k{uuid4().hex}", 1, (Step("a", "oltp", act, act, pivot=True),))
    assert (await carried(world, definition, patience_s=0.05)).state == "succeeded"
    assert tried == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("useful", "borne"), [({1, 2, 3, 4, 5}, 6), ({3}, 4)], ids=["the first five", "the last that would be borne"]
)
async def test_rounds_before_something_worked_are_forgiven(
    world: World, monkeypatch: pytest.MonkeyPatch, useful: set[int], borne: int
) -> None:
    monkeypatch.setattr(engines, "ROUNDS", 3)
    monkeypatch.setattr(engines, "DUE_MAX_S", 0.0)
    rounds: list[int] = []

    async def act(deed: Deed) -> Mapping[str, Any]:
        rounds.append(1)
        if len(rounds) in useful:
            deed.report(done=len(rounds))
        raise unknown()

    definition = Definition(f"test.k{uuid4().hex}", 1, (Step("a", "oltp", act, act, pivot=True),))
    engine = Engine(world.tiers, Registry([definition]))
    held, _ = await engine.journal.create(definition.kind, 1, uuid4(), {}, saga_id=keys.new_id(), subject="")
    states = [(await engine.run(held, patience_s=0.0)).held.state]
    while states[-1] == "running":
        claimed = await engine.journal.claim_one(held)
        assert claimed is not None
        states.append((await engine.run(claimed, patience_s=0.0)).held.state)
    assert states == ["running"] * borne + ["stuck"]


async def test_after_many_rounds_it_is_stuck_rather_than_tried_for_ever(
    world: World, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "ROUNDS", 1)
    script.fails["a", ACTION] = [unknown()]
    with pytest.raises(SagaStuckError):
        await carried(world, script.definition("a", pivot="a"), patience_s=0.05)
