"""Reconcile beside legal holds."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from libs.orchestrator.tests.planting import World, findings, minted

from penguin.tier.v1 import erasure_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import Tier


async def test_what_a_legal_hold_keeps_is_not_deleted(reconcile: Any, world: World, all_tiers: dict[str, Tier]) -> None:
    kept, other = await world.keep(minted(2), state="quarantined", quarantined_s=8 * 86400)
    content = all_tiers["content"]
    request = tier_pb.PutLegalHoldRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), id=str(uuid4()), reason="Case 7", storage_key=kept
    )
    await content.call(content.stub(TierServiceStub).PutLegalHold, request)
    run = await reconcile()
    assert (run.counts["deleted"], run.counts["held"]) == (1, 1)
    assert await findings(all_tiers, run) == {("deletable", kept, "held"), ("deletable", other, "deleted")}
    assert set(await world.states()) == {kept}
