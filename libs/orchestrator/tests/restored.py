"""Tiers whose databases were restored, for the time of a test."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from penguin.tier.v1 import erasure_pb2 as pb
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_orchestrator.clients import Tier


async def _replayed(tier: Tier, unreplayed: Sequence[UUID] = ()) -> None:
    stub = tier.stub(TierServiceStub)
    incarnation = (await tier.call(stub.GetStatus, tier_pb.GetStatusRequest())).incarnation
    request = pb.MarkReplayedRequest(incarnation=incarnation, unreplayed_tenant_ids=map(str, unreplayed))
    await tier.call(stub.MarkReplayed, request)


@contextlib.asynccontextmanager
async def left_out(tier: Tier, *tenants: UUID) -> AsyncIterator[None]:
    """The tier serves all but these, of whom an erasure could not be replayed."""
    await _replayed(tier, tenants)
    try:
        yield
    finally:
        await _replayed(tier)


@contextlib.asynccontextmanager
async def restoring(tier: Tier) -> AsyncIterator[None]:
    """The tier serves nobody: nothing is replayed into it."""
    await tier.call(tier.stub(TierServiceStub).MarkRestored, pb.MarkRestoredRequest())
    try:
        yield
    finally:
        await _replayed(tier)
