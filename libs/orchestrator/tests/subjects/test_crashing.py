"""The erasure of a person, stopped at every call and every moment of it, and gone on with by another process: all of it
stands or nothing does. The points are generated from the definition, as those of the other sagas are."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from libs.orchestrator.tests.sagas import scenarios
from libs.orchestrator.tests.sagas.conftest import world
from libs.orchestrator.tests.sagas.crashes import BEFORE, EFFECT, REPLY, points
from libs.orchestrator.tests.sagas.scenarios import Begun, Scenario, World
from libs.orchestrator.tests.sagas.test_crash_points import brisk, one, stopped_at
from services.oltp.tests.rows import make_tenant

from penguin_orchestrator import keys
from penguin_orchestrator.erasure_ledger import ERASE, Entry, ErasureLedger
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.sagas.definition import ACTION
from penguin_orchestrator.sagas.subjects import KIND, Erasing
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
        elif await world.count("oltp", tenant, "SELECT count(*) FROM sagas WHERE tenant_id = $1"):
            assert erasure_id not in ordered, "what was refused would be replayed"


@pytest.mark.timeout(240)
async def test_all_or_nothing_wherever_it_is_stopped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = ErasureLedger(tmp_path / "ledger", tmp_path / "copy", b"k" * 32)
    scene = Erased(ledger)
    monkeypatch.setitem(scenarios.SCENARIOS, KIND, Scenario(scene.prepare, scene.check))
    definition = Erasing(ledger).definition()
    ends: Counter[str] = Counter()
    for refused in (None, ("suppress", ACTION), ("content", ACTION)):
        end, places = await one(world, definition, refused, None)
        after = refused is not None and definition.decided(refused[0])
        assert end == ("succeeded" if refused is None or after else "compensated"), f"{refused} ended as {end}"
        for point in points(places, (REPLY,) if after else (BEFORE, EFFECT, REPLY)):
            try:
                ends[await stopped_at(world, definition, refused, point)] += 1
            except Exception as error:
                raise AssertionError(f"refused {refused}, killed {point}") from error
    with capsys.disabled():
        print(f"\n{definition.id}: {ends.total()} crash points: {dict(ends)}")  # noqa: T201 - the proof's figure
    assert ends["succeeded"] > 0
    assert ends["compensated"] > 0
