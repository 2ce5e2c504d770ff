"""The erasure of a person, stopped at every call and every moment of it, and gone on with by another process: all of it
stands or nothing does. The points are generated from the definition, as those of the other sagas are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from libs.orchestrator.tests.sagas import scenarios
from libs.orchestrator.tests.sagas.closings import closings, ended
from libs.orchestrator.tests.sagas.conftest import world
from libs.orchestrator.tests.sagas.crashes import refusals
from libs.orchestrator.tests.sagas.scenarios import Begun, Scenario, World
from libs.orchestrator.tests.sagas.test_crash_points import brisk, played_everywhere
from libs.orchestrator.tests.sagas.test_skipping import ended_without
from services.oltp.tests.rows import make_tenant

from penguin.oltp.v1 import subject_service_pb2 as pb
from penguin.oltp.v1.subject_service_pb2_grpc import SubjectServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.erasure_ledger import ERASE, Entry, ErasureLedger, LedgerAwayError
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas.carrying import SagaRefusedError, Sagas, SagaUnfinishedError
from penguin_orchestrator.sagas.deeds import Deed, RefusedError
from penguin_orchestrator.sagas.definition import Registry
from penguin_orchestrator.sagas.subjects import KIND, TIERS, Erasing
from penguin_orchestrator.sending import Sender

__all__ = ["brisk", "world"]

ADDRESS = "ada@example.com"
LEDGER = "SELECT count(*) FROM emails WHERE tenant_id = $1 AND recipient = $2"


class Erased:
    """What an erasure begins with, and what may be found when it has ended."""

    def __init__(self, ledger: ErasureLedger) -> None:
        self._ledger = ledger

    async def prepare(self, world: World) -> Begun:
        """A tenant who has written to two people."""
        tenant = await make_tenant(world.dbs["oltp"])
        emails = [OutgoingEmail(each, "us@sender.example", "Hi", text=each) for each in (ADDRESS, "bob@example.com")]
        await Sender(world.tiers["content"], world.tiers["oltp"]).send_emails(tenant, emails)
        subject = self._ledger.subject(tenant, ADDRESS)
        order = self._ledger.append(Entry(ERASE, keys.new_id(), tenant, subject, datetime.now(UTC), ADDRESS))
        return Begun(tenant, {"erasure_id": str(order.erasure_id)}, subject)

    async def check(self, world: World, begun: Begun, whole: bool) -> None:
        """All is gone, once, and told in receipts; or she may be written to as before."""
        tenant, erasure_id = begun.tenant, UUID(begun.input["erasure_id"])
        left = [
            await world.count("oltp", tenant, LEDGER, ADDRESS),
            await world.count("content", tenant, "SELECT count(*) FROM content_objects WHERE tenant_id = $1"),
            await world.count("oltp", tenant, "SELECT count(*) FROM erased_subjects WHERE tenant_id = $1"),
            await world.count("oltp", tenant, "SELECT count(*) FROM erasure_receipts WHERE tenant_id = $1"),
        ]
        assert left == ([0, 1, 1, 5] if whole else [1, 2, 0, 0])
        ordered = {order.erasure_id: found for order, found in self._ledger.orders()}
        if whole:
            assert len(set(ordered[erasure_id])) == len(ordered[erasure_id]) == 1, "not the keys that are hers"
            assert await Penguin(world.tiers, self._ledger).subjects.verify(tenant) == [], "receipts of another try"
            assert len(self._ledger.bound()[erasure_id]) == 1
        elif await world.count("oltp", tenant, "SELECT count(*) FROM sagas WHERE tenant_id = $1"):
            assert erasure_id not in ordered, "what was refused would be replayed"


@pytest.fixture
async def ledger(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ErasureLedger:
    """A ledger of this test's own, with the scenario over it. Processes end here, and not machines: nothing is waited for
    until it is on disk; and no thread decides which of two steps comes first, so that each run comes by the same places."""
    monkeypatch.setattr("penguin_orchestrator.erasure_ledger.os.fsync", lambda _: None)
    monkeypatch.setattr("penguin_orchestrator.sagas.subjects.asyncio", SimpleNamespace(to_thread=at_once))
    await world.know_no_ledger()
    opened = ErasureLedger(tmp_path / "ledger", tmp_path / "copy", b"k" * 32)
    scene = Erased(opened)
    monkeypatch.setitem(scenarios.SCENARIOS, KIND, Scenario(scene.prepare, scene.check))
    return opened


async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    """In no thread."""
    return work(*arguments)


# Its steps alone are looked at: no file is opened.
UNOPENED = Erasing(ErasureLedger(Path(), Path(), b"k" * 32)).definition()
WAYS = refusals(UNOPENED)


@pytest.mark.parametrize("refused", WAYS, ids=[way[0] if way else "nothing refused" for way in WAYS])
async def test_all_or_nothing_wherever_it_is_stopped(
    world: World, ledger: ErasureLedger, refused: tuple[str, str] | None, monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    record_property("figure", await played_everywhere(world, Erasing(ledger).definition(), refused, monkeypatch))


async def test_a_closed_tenants_people_are_erased_all_the_same(
    world: World, ledger: ErasureLedger, record_property: Callable[[str, object], None]
) -> None:
    definition, ends = Erasing(ledger).definition(), Counter[str]()
    scenario = scenarios.SCENARIOS[KIND]
    for closing in closings(definition):
        begun = await scenario.prepare(world)
        try:
            held = await ended(world, definition, begun, closing)
            assert held.state == ("compensated" if closing.refused else "succeeded")
            await scenario.check(world, begun, held.state == "succeeded")
        except Exception as error:
            raise AssertionError(f"closed {closing}") from error
        ends[held.state] += 1
    record_property("figure", f"{definition.id} in a tenant that is closed: {dict(sorted(ends.items()))}")


@pytest.mark.parametrize("mounted_on", [False, True], ids=["no folder", "an empty folder"])
@pytest.mark.parametrize("fresh", [False, True], ids=["same process", "another process"])
async def test_an_order_is_not_refused_while_the_ledger_is_away(
    world: World, ledger: ErasureLedger, tmp_path: Path, *, mounted_on: bool, fresh: bool
) -> None:
    """A volume that is not mounted leaves an empty folder."""
    scenario, folder, elsewhere = scenarios.SCENARIOS[KIND], tmp_path / "ledger", tmp_path / "elsewhere"
    begun = await scenario.prepare(world)
    opened = ErasureLedger(folder, tmp_path / "copy", b"k" * 32) if fresh else ledger
    sagas = Sagas(world.tiers, Registry([Erasing(opened).definition()]))
    folder.rename(elsewhere)
    if mounted_on:
        folder.mkdir()
    with pytest.raises(SagaUnfinishedError, match="LedgerAwayError"):
        await sagas.carry_out(KIND, begun.tenant, begun.input, subject=begun.subject, patience_s=0.1)
    elsewhere.rename(folder)
    held = await sagas.carry_out(KIND, begun.tenant, begun.input, subject=begun.subject)
    assert held.state == "succeeded"
    await scenario.check(world, begun, True)


async def test_an_order_is_not_refused_where_the_ledger_goes_after_it_was_read(
    world: World, ledger: ErasureLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, sagas = scenarios.SCENARIOS[KIND], Sagas(world.tiers, Registry([Erasing(ledger).definition()]))
    begun = await scenario.prepare(world)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ErasureLedger, "known", away)
        with pytest.raises(SagaUnfinishedError, match="LedgerAwayError"):
            await sagas.carry_out(KIND, begun.tenant, begun.input, subject=begun.subject, patience_s=0.1)
    held = await sagas.carry_out(KIND, begun.tenant, begun.input, subject=begun.subject)
    assert held.state == "succeeded"
    await scenario.check(world, begun, True)


async def test_what_was_refused_is_withdrawn_once_the_ledger_is_back(
    world: World, ledger: ErasureLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not undone before: its order would stand, and be replayed."""
    scenario = scenarios.SCENARIOS[KIND]
    begun, calls = await scenario.prepare(world), list[str]()
    read = ErasureLedger.order

    def gone(self: ErasureLedger, erasure_id: UUID) -> Any:
        calls.append("read")
        return away(self) if len(calls) > 1 else read(self, erasure_id)

    async def refused(self: Erasing, deed: Deed) -> None:
        raise RefusedError("held")

    monkeypatch.setattr(Erasing, "holds", refused)
    sagas = Sagas(world.tiers, Registry([Erasing(ledger).definition()]))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(ErasureLedger, "order", gone)
        with pytest.raises(SagaUnfinishedError, match="LedgerAwayError"):
            await sagas.carry_out(KIND, begun.tenant, begun.input, subject=begun.subject, patience_s=0.1)
    with pytest.raises(SagaRefusedError):
        await sagas.carry_out(KIND, begun.tenant, begun.input, subject=begun.subject)
    await scenario.check(world, begun, False)


def away(*_: object) -> Any:
    raise LedgerAwayError("the ledger cannot be read (OSError)")


STEPS = [step.name for step in UNOPENED.steps if UNOPENED.decided(step.name)]


@pytest.mark.parametrize("step", STEPS)
async def test_a_tier_that_is_skipped_is_told_by_who_answers_for_it(
    world: World, ledger: ErasureLedger, step: str
) -> None:
    tenant, held = await ended_without(world, Erasing(ledger).definition(), step)
    assert held.state == "succeeded"
    subjects = world.tiers["oltp"].stub(SubjectServiceStub)
    listed = await world.tiers["oltp"].call(subjects.ListErasures, pb.ListErasuresRequest(tenant_id=str(tenant)))
    faults = await Penguin(world.tiers, ledger).subjects.verify(tenant)
    if step == "receipts":
        assert not listed.erasures
        assert [each.split(": ")[1] for each in faults] == ["ordered, and without receipts"]
        return
    (erasure,) = listed.erasures
    told = {receipt.tier: (receipt.skipped_by, bool(receipt.counts)) for receipt in erasure.receipts}
    assert told == {
        # These hold nothing of hers; the others say what went.
        tier: (held.skipped.get(tier, ""), tier in {"content", "oltp"} and tier not in held.skipped) for tier in TIERS
    } | ({"content": (held.skipped[step], False)} if step == "collect" else {})  # fmt: skip
    assert all(receipt.HasField("erased_at") for receipt in erasure.receipts)
    assert faults == [f"{erasure.id}: {tier} was skipped by {by}" for tier, (by, _) in told.items() if by]
