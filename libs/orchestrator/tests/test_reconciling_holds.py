"""Reconcile beside legal holds."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from libs.orchestrator.tests.planting import World, findings, minted

from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.reconciling.receipts import Terms


async def hold(content: Tier, world: World, key: str) -> None:
    request = tier_pb.PutLegalHoldRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), id=str(uuid4()), reason="Case 7", storage_key=key
    )
    await content.call(content.stub(TierServiceStub).PutLegalHold, request)


async def test_what_a_legal_hold_keeps_is_not_deleted(reconcile: Any, world: World, all_tiers: dict[str, Tier]) -> None:
    kept, other = await world.keep(minted(2), state="quarantined", quarantined_s=8 * 86400)
    await hold(all_tiers["content"], world, kept)
    run = await reconcile()
    assert (run.counts["deleted"], run.counts["held"]) == (1, 1)
    assert await findings(all_tiers, run) == {("deletable", kept, "held"), ("deletable", other, "deleted")}
    assert set(await world.states()) == {kept}


async def test_what_a_legal_hold_keeps_takes_no_room_of_the_cap(
    reconcile: Any, world: World, all_tiers: dict[str, Tier]
) -> None:
    kept = [f"a/{key}" for key in minted(5)]
    orphans = [f"z/{key}" for key in minted(3)]
    await world.keep(kept + orphans, state="quarantined", quarantined_s=8 * 86400)
    for key in kept:
        await hold(all_tiers["content"], world, key)
    run = await reconcile(Terms(apply=True, cap=2))
    assert (run.counts["deleted"], run.counts["held"]) == (2, 5)
    assert set(await world.states()) == {*kept, max(orphans)}
