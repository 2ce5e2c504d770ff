"""Reconcile of a tenant that is closed: what is nobody's goes, as anywhere."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import grpc
import pytest
from libs.orchestrator.tests.planting import World, minted

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import NO_TOKEN, TierError
from penguin_orchestrator.reconciling import mending


@pytest.fixture
async def closed(world: World, all_tiers: dict[str, Tier]) -> World:
    """A closed tenant with ten contents of its rows, two that nobody refers to, and one that was to be removed."""
    await world.both(10)
    await world.keep(minted(2))
    await world.keep(minted(1), state="quarantined", quarantined_s=8 * 86400)
    for name in ("oltp", "content"):
        request = tier_pb.CloseTenantRequest(tenant_id=str(world.tenant), request_id=str(uuid4()))
        await all_tiers[name].call(all_tiers[name].stub(TierServiceStub).CloseTenant, request)
    return world


async def test_what_is_nobodys_of_a_closed_tenant_goes(reconcile: Any, closed: World) -> None:
    run = await reconcile()
    assert run.status == pb.RECONCILE_STATUS_FINISHED
    assert (run.counts["quarantined"], run.counts["deleted"], run.counts.get("tenants_left_out", 0)) == (2, 1, 0)
    assert sorted((await closed.states()).values()) == [("claimed", False)] * 10 + [("quarantined", True)] * 2


async def test_a_relay_that_may_not_do_so_leaves_the_tenant_out(
    reconcile: Any, closed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = Tier._metadata

    async def denied(self: Tier, path: str, tenant_id: Any) -> Any:
        if tenant_id is None and "ContentService" in path:
            raise TierError("content", grpc.StatusCode.UNAVAILABLE, NO_TOKEN, "not for this workload")
        return await metadata(self, path, tenant_id)

    monkeypatch.setattr(Tier, "_metadata", denied)
    monkeypatch.setattr(mending, "DEADLINE_S", 0.1)
    run = await reconcile()
    assert (run.status, run.counts["tenants_left_out"]) == (pb.RECONCILE_STATUS_FINISHED, 1)
    assert len(await closed.states()) == 13
