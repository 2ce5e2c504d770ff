"""What a run may do at most holds for the whole run, whoever takes it on, and however often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from libs.orchestrator.tests.planting import World, minted
from libs.orchestrator.tests.test_reconciling import KilledError
from services.oltp.tests.rows import make_tenant

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin_chassis.pool import Database
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.reconciling import mending
from penguin_orchestrator.reconciling.reading import KeyReader, LeftOutError, Places
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler

OLD: dict[str, Any] = {"state": "quarantined", "quarantined_s": 9 * 86400}
ACTS: dict[str, tuple[str, dict[str, Any]]] = {"quarantine": ("quarantined", {}), "delete": ("deleted", OLD)}


async def done(world: World, act: str, of: int) -> int:
    """How many were put aside, or are gone."""
    states = await world.states()
    return of - len(states) if act == "delete" else sum(aside for _, aside in states.values())


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], None]:
    """Kill whoever next does such an act, once it is done or right before."""

    def planned(act: str, after: bool) -> None:
        real = getattr(mending.Mender, act)

        async def killed(self: mending.Mender, *given: Any) -> Any:
            if after:
                await real(self, *given)
            monkeypatch.setattr(mending.Mender, act, real)
            raise KilledError

        monkeypatch.setattr(mending.Mender, act, killed)

    return planned


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("after", [True, False], ids=["done", "not done"])
async def test_the_cap_holds_over_a_kill(
    reconcile: Any, world: World, oltp_db: Database, kill: Callable[[str, bool], None], act: str, after: bool
) -> None:
    count, planted = ACTS[act]
    await world.keep(minted(9), **planted)
    terms = Terms(apply=True, cap=2)
    kill(act, after)
    with pytest.raises(KilledError):
        await reconcile(terms)
    async with oltp_db.maintenance() as connection:
        await connection.execute("UPDATE reconcile_runs SET leased_until = now() WHERE status = 'running'")
    run = await reconcile(terms)
    assert run.status == pb.RECONCILE_STATUS_FINISHED
    # What was begun counts, though it is not known whether it was done.
    assert run.counts[count] == 2
    assert await done(world, act, 9) == (2 if after else 0)
    again = await reconcile(terms)
    assert (again.id != run.id, again.counts[count]) == (True, 2)
    assert await done(world, act, 9) == (4 if after else 2)


async def test_what_was_not_there_any_more_takes_no_room(
    reconcile: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.keep(minted(3), **OLD)
    legal = await world.keep(minted(2), **OLD)
    delete = mending.Mender.delete

    async def held(self: mending.Mender, keys: list[str], before: Any) -> tuple[int, set[str]]:
        count, _ = await delete(self, [key for key in keys if key not in legal], before)
        return count, set(legal)

    monkeypatch.setattr(mending.Mender, "delete", held)
    run = await reconcile(Terms(apply=True, cap=5))
    assert (run.counts["deleted"], run.counts["held"]) == (3, 2)


async def test_a_tenant_that_is_left_out_takes_no_others_room(
    all_tiers: dict[str, Tier], world: World, oltp_db: Database, content_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = sorted([world.tenant, await make_tenant(oltp_db)])
    first, second = (World(tenant, oltp_db, content_db) for tenant in pair)
    await first.keep(minted(4))
    await second.keep(minted(4))
    quarantine = mending.Mender.quarantine

    async def closed(self: mending.Mender, keys: list[str]) -> int:
        if self._tenant_id == first.tenant:
            raise LeftOutError("TENANT_CLOSED")
        return await quarantine(self, keys)

    async def two(self: KeyReader, places: Places) -> list[UUID]:
        return pair

    monkeypatch.setattr(mending.Mender, "quarantine", closed)
    monkeypatch.setattr(KeyReader, "tenants", two)
    run = await Reconciler(all_tiers).run(Terms(apply=True, cap=4))
    assert (run.counts["tenants_left_out"], set((await second.states()).values())) == (1, {("quarantined", True)})
    assert run.counts["quarantined"] == 4, "what was refused was not done"
