"""Reconcile where much does not agree: all of it is told, part by part, and nothing that comes after it stays hidden."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from libs.orchestrator.tests.planting import CLOSED, World, minted
from libs.orchestrator.tests.test_reconciling import KilledError

from penguin_chassis.pool import Database
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.reconciling import comparing, receipts
from penguin_orchestrator.reconciling.comparing import Comparison, Difference
from penguin_orchestrator.reconciling.reading import KeyReader, MovedError, RefusedError
from penguin_orchestrator.reconciling.receipts import Terms


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What much is: as with five thousand and a few hundred at a time, only sooner."""
    monkeypatch.setattr(comparing, "TOLD", 20)
    monkeypatch.setattr(comparing, "TOGETHER", 4)
    monkeypatch.setattr(comparing, "SMALL", 2)


async def plant(world: World, dangling: int = 120) -> tuple[set[str], set[str]]:
    """References without their contents, most of them in one generation, and orphans beside and behind them; and what agrees."""
    lost = set(await world.refer(minted(dangling), generation=CLOSED - 2))
    lost.update(await world.refer(minted(5), generation=CLOSED - 1))
    orphans = set(await world.keep(minted(3), generation=CLOSED - 2))
    orphans.update(await world.keep(minted(4), generation=CLOSED))
    for n in range(4):
        await world.both(20, generation=CLOSED - n)
    return lost, orphans


async def differences(tiers: dict[str, Tier], world: World) -> AsyncIterator[Difference]:
    reader = KeyReader(tiers)
    async for each in Comparison(reader, await reader.places(), world.tenant).differences(0, CLOSED + 1):
        yield each


async def told(tiers: dict[str, Tier], world: World) -> list[Difference]:
    return [each async for each in differences(tiers, world)]


async def test_more_than_is_told_at_once_hides_no_orphan_behind_it(reconcile: Any, world: World) -> None:
    lost, orphans = await plant(world)
    run = await reconcile()
    assert (run.counts["found.dangling"], run.counts["found.orphans"]) == (len(lost), len(orphans))
    assert {key for key, (_, aside) in (await world.states()).items() if aside} == orphans
    assert run.counts["keys.oltp.emails"] == len(lost) + 80
    assert run.counts["keys.content.contents"] == len(orphans) + 80
    again = await reconcile()
    assert (again.counts["found.dangling"], again.counts["found.orphans"]) == (len(lost), 0)


async def test_it_is_told_once_each_in_parts_that_stay_small(all_tiers: dict[str, Tier], world: World) -> None:
    lost, orphans = await plant(world)
    parts = await told(all_tiers, world)
    assert len(parts) > 4
    assert max(part.keys for part in parts) < 2 * comparing.TOLD
    assert sorted(key for part in parts for key in part.dangling) == sorted(lost)
    assert sorted(key for part in parts for key in part.orphans) == sorted(orphans)
    ends = [part.end for part in parts]
    assert ends == sorted(ends)
    assert ends[-1] == CLOSED + 1
    counted = [sum(count for place, count in part.counted.items() if place.tier == "oltp") for part in parts]
    assert sum(counted) == len(lost) + 80, "each generation's keys are counted once"


async def test_what_moves_in_the_middle_is_asked_for_again_from_there(
    all_tiers: dict[str, Tier], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, orphans = await plant(world)
    keys, calls, moves = KeyReader.keys, 0, 0

    async def moving(self: KeyReader, *given: Any) -> Any:
        nonlocal calls, moves
        calls += 1
        # As often as one part may, and not at its beginning: how many calls a part takes depends on its keys.
        if calls in {2, 5}:
            moves += 1
            raise MovedError("it moved")
        return await keys(self, *given)

    monkeypatch.setattr(KeyReader, "keys", moving)
    parts = []
    async for part in differences(all_tiers, world):
        parts.append(part)
        calls = 0
    assert moves > 2 * (comparing.TRIES - 1), "more often than one part may"
    assert sorted(key for part in parts for key in part.dangling) == sorted(lost)
    assert sorted(key for part in parts for key in part.orphans) == sorted(orphans)

    async def never_still(self: KeyReader, *given: Any) -> Any:
        raise MovedError("it moved")

    monkeypatch.setattr(KeyReader, "keys", never_still)
    with pytest.raises(RefusedError, match="it moved"):
        await told(all_tiers, world)


@pytest.mark.parametrize("at", [2, 4, 6, 8])
async def test_killed_in_the_middle_of_much_and_run_again_it_is_right(
    reconcile: Any, world: World, monkeypatch: pytest.MonkeyPatch, oltp_db: Database, at: int
) -> None:
    _, orphans = await plant(world, 60)
    record, words = receipts.Receipt.record, iter(range(1, 1000))

    async def killed(self: Any, *rest: Any) -> None:
        if next(words) == at:
            raise KilledError
        await record(self, *rest)

    monkeypatch.setattr(receipts.Receipt, "record", killed)
    with pytest.raises(KilledError):
        await reconcile()
    async with oltp_db.maintenance() as connection:
        await connection.execute("UPDATE reconcile_runs SET leased_until = now() WHERE status = 'running'")
    run = await reconcile(Terms(apply=True))
    assert run.counts["quarantined"] >= 1
    assert {key for key, (_, aside) in (await world.states()).items() if aside} == orphans
