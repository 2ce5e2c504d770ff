"""Moves of a campaign beside one another, and with a token that is not known yet: what was acknowledged holds, and what was
refused has changed nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import grpc
import pytest
from libs.orchestrator.tests.sagas.scenarios import SCENARIOS, Begun, World

from penguin_chassis.errors import STATUS_OF_KIND
from penguin_chassis.refusals import PASSING
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas import engine as engines
from penguin_orchestrator.sagas.carrying import Sagas
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import Registry, Step
from penguin_orchestrator.sagas.known import KNOWN

EMAILS = "SELECT status FROM emails WHERE tenant_id = $1 AND campaign_id = $2"
STATUS = "SELECT status FROM campaigns WHERE tenant_id = $1 AND id = $2"


class Slow:
    """A process that carries these steps of a saga out, and after each is slow to say so."""

    def __init__(self, world: World, kind: str, *steps: str) -> None:
        self.did, self._goes_on = {step: asyncio.Event() for step in steps}, {step: asyncio.Event() for step in steps}
        definition = KNOWN.newest(kind)
        slowed = tuple(self._slowed(each) if each.name in steps else each for each in definition.steps)
        self._sagas, self._kind = Sagas(world.tiers, Registry([replace(definition, steps=slowed)])), kind
        self._first = steps[0]

    def _slowed(self, step: Step) -> Step:
        async def slowly(deed: Deed) -> Mapping[str, Any] | None:
            result = await step.act(deed)
            self.did[step.name].set()
            await self._goes_on[step.name].wait()
            return result

        return replace(step, act=slowly)

    async def begin(self, begun: Begun) -> asyncio.Task[Any]:
        """Until the first of the steps has had its effect."""
        carrying = asyncio.create_task(
            self._sagas.carry_out(self._kind, begun.tenant, begun.input, subject=begun.subject)
        )
        await self.did[self._first].wait()
        return carrying

    def go_on(self, *steps: str) -> None:
        """Say so now; of all steps, where none is named."""
        for step in steps or self.did:
            self._goes_on[step].set()


async def found(world: World, begun: Begun, query: str) -> list[str]:
    return [row["status"] for row in await world.rows("oltp", begun.tenant, query, UUID(begun.subject))]


async def settled(work: asyncio.Task[Any], slow: Slow, first: asyncio.Task[Any]) -> Any:
    """What comes of a move that has joined another, once that goes on."""
    await asyncio.sleep(0.3)
    assert not work.done()
    slow.go_on()
    return (await asyncio.gather(work, first))[0]


async def test_a_pause_that_joins_one_from_before_a_resume_pauses(world: World) -> None:
    begun, campaigns = await SCENARIOS["campaign.pause"].prepare(world), Penguin(world.tiers).campaigns
    slow = Slow(world, "campaign.pause", "pause")
    first = await slow.begin(begun)
    await campaigns.resume(begun.tenant, UUID(begun.subject))
    await settled(asyncio.create_task(campaigns.pause(begun.tenant, UUID(begun.subject))), slow, first)
    assert await found(world, begun, STATUS) == ["paused"]


@pytest.mark.parametrize("kind", ["resume", "launch"])
async def test_a_launch_that_joins_one_from_before_a_pause_lets_it_run(world: World, kind: str) -> None:
    begun, campaigns = await SCENARIOS[f"campaign.{kind}"].prepare(world), Penguin(world.tiers).campaigns
    slow = Slow(world, f"campaign.{kind}", "send")
    first = await slow.begin(begun)
    await campaigns.pause(begun.tenant, UUID(begun.subject))
    again = getattr(campaigns, kind)(begun.tenant, UUID(begun.subject))
    told = await settled(asyncio.create_task(again), slow, first)
    assert (told.stopped, await found(world, begun, STATUS)) == (False, ["running"])


@pytest.mark.parametrize("kind", ["resume", "launch"])
async def test_a_pause_after_two_that_let_it_run_holds(world: World, kind: str) -> None:
    begun, campaigns = await SCENARIOS[f"campaign.{kind}"].prepare(world), Penguin(world.tiers).campaigns
    slow = Slow(world, f"campaign.{kind}", "plan", "start")
    first = await slow.begin(begun)
    # Asked for before the one that it joins has done anything.
    joined = asyncio.create_task(getattr(campaigns, kind)(begun.tenant, UUID(begun.subject)))
    await asyncio.sleep(0.3)
    slow.go_on("plan")
    await slow.did["start"].wait()
    await campaigns.pause(begun.tenant, UUID(begun.subject))
    slow.go_on()
    await asyncio.gather(first, joined)
    assert await found(world, begun, STATUS) == ["paused"]


async def test_a_resume_after_two_pauses_holds(world: World) -> None:
    begun, campaigns = await SCENARIOS["campaign.pause"].prepare(world), Penguin(world.tiers).campaigns
    slow = Slow(world, "campaign.pause", "pause")
    first = await slow.begin(begun)
    joined = asyncio.create_task(campaigns.pause(begun.tenant, UUID(begun.subject)))
    await asyncio.sleep(0.3)
    await campaigns.resume(begun.tenant, UUID(begun.subject))
    slow.go_on()
    await asyncio.gather(joined, first)
    assert await found(world, begun, STATUS) == ["running"]


async def test_two_pauses_at_once_are_one(world: World) -> None:
    begun, campaigns = await SCENARIOS["campaign.pause"].prepare(world), Penguin(world.tiers).campaigns
    slow = Slow(world, "campaign.pause", "pause")
    first = await slow.begin(begun)
    await settled(asyncio.create_task(campaigns.pause(begun.tenant, UUID(begun.subject))), slow, first)
    assert await found(world, begun, STATUS) == ["paused"]
    count = "SELECT count(*) FROM sagas WHERE tenant_id = $1 AND subject = $2"
    assert await world.count("oltp", begun.tenant, count, begun.subject) == 1


@pytest.mark.parametrize("method", ["CancelCampaign", "AdvanceSaga"])
async def test_a_cancel_whose_token_one_replica_does_not_know_yet_cancels(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    begun, oltp = await SCENARIOS["campaign.cancel"].prepare(world), world.tiers["oltp"]
    metadata, strange = oltp._metadata, ["once"]

    async def unknown(path: str, tenant_id: UUID | None) -> Sequence[tuple[str, str]]:
        known = await metadata(path, tenant_id)
        if path.endswith(method) and strange:
            strange.pop()
            return [(key, value[:-8] + "AAAAAAAA" if key == "authorization" else value) for key, value in known]
        return known

    monkeypatch.setattr(oltp, "_metadata", unknown)
    await Penguin(world.tiers).campaigns.cancel(begun.tenant, UUID(begun.subject))
    assert not strange
    assert await found(world, begun, STATUS) == ["cancelled"]
    assert set(await found(world, begun, EMAILS)) == {"cancelled"}


def test_a_saga_takes_for_final_what_a_tier_keeps_and_nothing_else() -> None:
    codes = {code.value[0]: code for code in grpc.StatusCode}
    final = {
        kind
        for kind, number in STATUS_OF_KIND.items()
        if engines._verdict(TierError("oltp", codes[number], "TENANT_QUOTA", "")) == "refused"
    }
    assert final == STATUS_OF_KIND.keys() - PASSING
