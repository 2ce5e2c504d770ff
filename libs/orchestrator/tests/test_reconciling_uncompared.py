"""A tenant that cannot be compared, while all tiers are there, is told and left alone, and those behind it have their turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import grpc
import pytest
from libs.orchestrator.tests.planting import World, findings, minted, refused
from libs.orchestrator.tests.restored import left_out
from libs.orchestrator.tests.test_reconciling_pairs import queued
from services.oltp.tests.rows import make_tenant

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.tier.v1 import key_service_pb2 as key_pb
from penguin_chassis.pool import Database
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling import mending, reading
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler
from penguin_testkit.faults import Break, Faults

Code = grpc.StatusCode
QUARANTINED, KEPT = ("quarantined", True), ("claimed", False)


@pytest.fixture
async def both(
    world: World, oltp_db: Database, content_db: Database, monkeypatch: pytest.MonkeyPatch
) -> tuple[World, World]:
    """Two tenants with orphans, in the order in which a run comes to them."""
    pair = sorted([world.tenant, await make_tenant(oltp_db)])

    async def tenants(self: reading.KeyReader, places: reading.Places) -> list[UUID]:
        return pair

    monkeypatch.setattr(reading.KeyReader, "tenants", tenants)
    first, second = (World(tenant, oltp_db, content_db) for tenant in pair)
    for each in (first, second):
        await each.both(2)
        await each.keep(minted(3))
    return first, second


async def states(world: World) -> list[tuple[str, bool]]:
    return sorted((await world.states()).values())


def slow(monkeypatch: pytest.MonkeyPatch, tenant: UUID, breaks: Faults | None = None) -> None:
    """Let OLTP not sum up this tenant's keys in time; from then on it answers nothing else either, where its breaks are given."""
    call = Tier.call

    async def late(self: Tier, method: Any, request: Any, **how: Any) -> Any:
        if isinstance(request, key_pb.DigestGenerationsRequest) and request.tenant_id == str(tenant):
            if breaks is not None:
                breaks.breaks("GetKeySources", *[Break(Code.UNAVAILABLE)] * 10)
            raise TierError("oltp", Code.DEADLINE_EXCEEDED, "DEADLINE", "No answer in time.")
        return await call(self, method, request, **how)

    monkeypatch.setattr(Tier, "call", late)


async def test_one_that_is_not_summed_up_in_time_keeps_nobody_behind_it_from_being_compared(
    all_tiers: dict[str, Tier], both: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = both
    slow(monkeypatch, first.tenant)
    run = await Reconciler(all_tiers).run(Terms(apply=True))
    assert (run.status, run.counts["found.uncompared"]) == (pb.RECONCILE_STATUS_FINISHED, 1)
    told = [each for each in await findings(all_tiers, run) if each[0] == "uncompared"]
    assert told == [("uncompared", "keys: oltp does not answer: DEADLINE_EXCEEDED DEADLINE", "")]
    assert run.counts["tenants_uncompared"] == 1, "by which the next is sooner"
    assert await states(first) == [KEPT] * 5
    assert await states(second) == [KEPT] * 2 + [QUARANTINED] * 3


@pytest.mark.parametrize("refusals", [2, 10**6])
@pytest.mark.parametrize("method", ["DigestGenerations", "ListEmails"])
async def test_one_that_has_no_place_free_is_waited_for_and_then_left_alone(
    all_tiers: dict[str, Tier], both: tuple[World, World], oltp_db: Database, monkeypatch: pytest.MonkeyPatch, method: str,
    refusals: int,
) -> None:  # fmt: skip
    """As many calls as it may have are under way: it is asked again, for a while, and keeps nobody behind it waiting for more."""
    first, second = both
    lacking = await queued(oltp_db, second.tenant, 2, hours=5)
    monkeypatch.setattr(reading, "BUSY_S", 0.5)
    call, left = Tier.call, [refusals]

    async def full(self: Tier, asked: Any, request: Any, **how: Any) -> Any:
        mine = asked._method.decode().endswith(f"/{method}") and request.tenant_id == str(first.tenant)
        if self.name == "oltp" and mine and left[0]:
            left[0] -= 1
            raise TierError("oltp", Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA", "Too many at once.")
        return await call(self, asked, request, **how)

    monkeypatch.setattr(Tier, "call", full)
    run = await Reconciler(all_tiers).run(Terms(apply=True))
    assert (run.status, run.counts["found.uncompared"]) == (pb.RECONCILE_STATUS_FINISHED, int(refusals > 2))
    assert await states(second) == [KEPT] * 2 + [QUARANTINED] * 3
    assert {("lacking_job", each, "requeued") for each in lacking} <= await findings(all_tiers, run)


@pytest.mark.parametrize(
    ("tier", "parts"),
    [("oltp", {"jobs", "facts"}), ("queue", {"jobs"}), ("content", {"quarantine", "keys"}), ("olap", {"facts"})],
)
async def test_one_that_waits_for_its_replay_keeps_nobody_behind_it_from_being_compared(
    all_tiers: dict[str, Tier], both: tuple[World, World], oltp_db: Database, tier: str, parts: set[str]
) -> None:
    """In any tier: what is refused there is told, and the rest of it compared."""
    first, second = both
    lacking = await queued(oltp_db, second.tenant, 2, hours=5)
    aside = await second.keep(minted(1), state="quarantined", quarantined_s=30 * 86400)
    async with left_out(all_tiers[tier], first.tenant):
        run = await Reconciler(all_tiers).run(Terms(apply=True))
    assert (run.status, run.counts["found.uncompared"]) == (pb.RECONCILE_STATUS_FINISHED, 1)
    told = await findings(all_tiers, run)
    why = f"{tier} does not answer: UNAVAILABLE RESTORE_NOT_REPLAYED"
    assert {subject for kind, subject, _ in told if kind == "uncompared"} == {f"{part}: {why}" for part in parts}
    assert {subject for kind, subject, _ in told if kind == "lacking_job"} == set(lacking)
    assert await states(first) == ([KEPT] * 5 if tier == "content" else [KEPT] * 2 + [QUARANTINED] * 3)
    assert await states(second) == [KEPT] * 2 + [QUARANTINED] * 3
    assert aside[0] not in await second.states()
    # What was refused took nobody's room.
    assert run.counts["quarantined"] == (3 if tier == "content" else 6)


@pytest.mark.parametrize(("tier", "method"), [("content", "ListQuarantinedContents"), ("queue", "ListJobs")])
async def test_a_tier_whose_replay_is_under_way_ends_the_run(
    reconcile: Any, world: World, breaks: dict[str, Faults], tier: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of nobody that they wait alone."""
    monkeypatch.setattr(mending, "DEADLINE_S", 1.0)
    breaks[tier].breaks(method, *[Break(Code.UNAVAILABLE, "RESTORE_NOT_REPLAYED")] * 20)
    run = await reconcile()
    assert run.status == pb.RECONCILE_STATUS_REFUSED
    assert run.refused_reason == f"{tier} does not answer: UNAVAILABLE RESTORE_NOT_REPLAYED"


async def test_a_tier_that_answers_nothing_any_more_ends_the_run(
    reconcile: Any, world: World, breaks: dict[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.keep(minted(3))
    slow(monkeypatch, world.tenant, breaks["oltp"])
    refused(await reconcile(), "oltp does not answer: UNAVAILABLE")
    assert await states(world) == [KEPT] * 3


async def test_one_whose_rows_keep_moving_is_left_alone_and_the_others_go_on(
    all_tiers: dict[str, Tier], both: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, second), keys = both, reading.KeyReader.keys

    async def moving(self: reading.KeyReader, place: reading.Place, tenant_id: UUID, buckets: Sequence[Any]) -> Any:
        if tenant_id == first.tenant and place.name == "oltp.emails":
            await first.refer(minted(1))
        return await keys(self, place, tenant_id, buckets)

    monkeypatch.setattr(reading.KeyReader, "keys", moving)
    run = await Reconciler(all_tiers).run(Terms(apply=True))
    assert (run.status, run.counts["found.uncompared"]) == (pb.RECONCILE_STATUS_FINISHED, 1)
    told = [subject for kind, subject, _ in await findings(all_tiers, run) if kind == "uncompared"]
    assert told == ["keys: oltp.emails does not add up to what it has counted"]
    assert await states(first) == [KEPT] * 5
    assert await states(second) == [KEPT] * 2 + [QUARANTINED] * 3


@pytest.mark.parametrize(
    ("tier", "method"),
    [
        ("oltp", "DigestGenerations"), ("content", "DigestGenerations"), ("oltp", "FindKeys"), ("content", "FindKeys"),
        ("content", "ListKeys"), ("content", "ListQuarantinedContents"), ("content", "QuarantineContents"),
    ],
)  # fmt: skip
async def test_what_is_not_answered_in_time_changes_nothing(
    reconcile: Any, world: World, breaks: dict[str, Faults], tier: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SUMS_TIMEOUT_S", 1.0)
    monkeypatch.setattr(mending, "DEADLINE_S", 1.0)
    await world.both(5)
    await world.keep(minted(3))
    if method == "FindKeys" and tier == "oltp":
        await world.keep(minted(3), state="quarantined", quarantined_s=30 * 86400)
    before = await world.states()
    breaks[tier].breaks(method, *[Break(None)] * 10)
    run = await reconcile()
    if method.endswith("Contents"):
        assert (run.status, run.refused_reason[:23]) == (pb.RECONCILE_STATUS_REFUSED, "content does not answer")
    else:
        assert (run.status, run.counts["found.uncompared"]) == (pb.RECONCILE_STATUS_FINISHED, 1)
    assert await world.states() == before
