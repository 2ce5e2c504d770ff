"""Reconcile looks for people who were erased in every tier, holds receipts against the ledger, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.planting import CLOSED, CONTENT, INBOX, findings
from libs.orchestrator.tests.sagas.conftest import world
from libs.orchestrator.tests.sagas.scenarios import World
from services.oltp.tests.rows import make_tenant

from penguin.notifications.v1 import admin_event_service_pb2 as admin_pb
from penguin.notifications.v1 import notification_service_pb2 as notice_pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin.notifications.v1.notification_service_pb2_grpc import NotificationServiceStub
from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin_chassis.clock import now
from penguin_orchestrator import keys
from penguin_orchestrator.erasure_ledger import ERASE, Entry, ErasureLedger
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.reconciling import subjects as comparing
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler
from penguin_orchestrator.relay import Relay

__all__ = ["world"]

ADDRESS, OTHER = "ada@example.com", "bob@example.com"
STANDING = {
    "oltp": "SELECT (SELECT count(*) FROM leads WHERE tenant_id = $1)"
    " + (SELECT count(*) FROM inbox_message_refs WHERE tenant_id = $1)",
    "content": "SELECT count(*) FROM content_objects WHERE tenant_id = $1",
    "notifications": "SELECT count(*) FROM notifications WHERE tenant_id = $1",
}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ErasureLedger:
    monkeypatch.setattr("penguin_orchestrator.erasure_ledger.os.fsync", lambda _: None)
    return ErasureLedger(tmp_path / "ledger", tmp_path / "copy", b"k" * 32)


@pytest.fixture
async def tenant(world: World) -> UUID:
    """One who has written to two people, none of whose owed rows another test is waiting for."""
    async with world.dbs["oltp"].maintenance() as connection:
        await connection.execute("UPDATE reconcile_runs SET status = 'finished' WHERE status = 'running'")
    await world.know_no_ledger()
    tenant = await make_tenant(world.dbs["oltp"])
    emails = [OutgoingEmail(each, "us@sender.example", "Hi", text=each) for each in (ADDRESS, OTHER)]
    await Penguin(world.tiers).send_emails(tenant, emails)
    return tenant


async def reconciled(world: World, tenant: UUID, ledger: ErasureLedger | None, **more: Any) -> pb.ReconcileRun:
    """A run that may change whatever it finds, of this tenant alone."""
    return await Reconciler(world.tiers, ledger=ledger, **more).run(Terms(apply=True, tenant_id=tenant))


def counts(run: pb.ReconcileRun) -> dict[str, int]:
    """What it says of erased people."""
    return {name.removeprefix("found."): n for name, n in run.counts.items() if "eras" in name and n}


async def standing(world: World, tenant: UUID) -> Mapping[str, int]:
    return {tier: await world.count(tier, tenant, query) for tier, query in STANDING.items()}


async def plant(world: World, tenant: UUID, key: str) -> None:
    """Something of hers in three tiers, as a backup that was put back would have it, or a defect."""
    await world.rows(
        "oltp", tenant,
        "INSERT INTO leads (tenant_id, id, email, list, first_name, last_name, company, custom_fields, status, created_at,"
        " updated_at) VALUES ($1, $2, 'Ada@Example.com', 'l', '', '', '', '{}', 'active', now(), now())", uuid4(),
    )  # fmt: skip
    letter = INBOX.replace("a@example.com", ADDRESS)
    await world.rows("oltp", tenant, letter, [uuid4().hex], CLOSED)
    await world.rows("content", tenant, CONTENT, [key], CLOSED, "claimed", now(), None)
    notifications = world.tiers["notifications"]
    item = notice_pb.NewNotification(
        request_id=str(uuid4()), id=str(keys.new_id()), type="lead.replied", title=f"{ADDRESS} has replied"
    )
    request = notice_pb.BatchCreateNotificationsRequest(tenant_id=str(tenant), notifications=[item])
    await notifications.call(notifications.stub(NotificationServiceStub).BatchCreateNotifications, request)


async def test_whoever_was_erased_is_looked_for_in_every_tier_and_told_of_once(
    world: World, tenant: UUID, ledger: ErasureLedger
) -> None:
    erasure = await Penguin(world.tiers, ledger).subjects.erase(tenant, ADDRESS)
    (_, (key,)) = ledger.orders()[0]
    assert counts(await reconciled(world, tenant, ledger)) == {"erased_looked_for": 1}
    await world.owe_nothing()

    await plant(world, tenant, key)
    before = await standing(world, tenant)
    run = await reconciled(world, tenant, ledger)
    assert counts(run) == {"erased_looked_for": 1, "erased_person": 1}
    told = {(kind, subject) for kind, subject, _ in await findings(world.tiers, run) if kind == "erased_person"}
    places = ("oltp.leads", "oltp.inbox_message_refs", "content.contents", "notifications.notifications")
    assert told == {("erased_person", f"{erasure.id}/{place}") for place in places}
    after = await standing(world, tenant)
    assert after == before, "a finding deletes nothing"
    for tier in world.tiers:
        for row in await world.rows(tier, tenant, "SELECT payload FROM outbox WHERE tenant_id = $1"):
            assert ADDRESS.encode() not in row["payload"].lower(), "the event names the person"

    await Relay(world.tiers["oltp"], world.tiers, 100).turn()
    notifications = world.tiers["notifications"]
    listed = await notifications.call(
        notifications.stub(AdminEventServiceStub).ListAdminEvents,
        admin_pb.ListAdminEventsRequest(tenant_id=str(tenant)),
    )
    (event,) = [each for each in listed.admin_events if "erased_person" in each.description]
    assert event.event_type == "reconcile.found"


async def test_receipts_and_ledger_are_held_against_each_other(
    world: World, tenant: UUID, ledger: ErasureLedger, tmp_path: Path
) -> None:
    erasure = await Penguin(world.tiers, ledger).subjects.erase(tenant, ADDRESS)
    old = datetime.now(UTC) - comparing.OPEN_FOR - timedelta(minutes=1)
    order = Entry(ERASE, keys.new_id(), tenant, ledger.subject(tenant, OTHER), old, OTHER)
    ledger.append(order)
    ledger.append(replace(order, erasure_id=keys.new_id(), at=datetime.now(UTC)))
    run = await reconciled(world, tenant, ledger)
    # She is gone; he was ordered to be and is not, and of him the order of this moment is none yet to be told of.
    assert counts(run) == {"erased_looked_for": 1, "erasure_open": 1}
    assert ("erasure_open", str(order.erasure_id), "") in await findings(world.tiers, run)

    lost = ErasureLedger(tmp_path / "other", tmp_path / "other copy", b"k" * 32)
    run = await reconciled(world, tenant, lost)
    assert counts(run) == {"erasure_unordered": 1}
    assert ("erasure_unordered", erasure.id, "") in await findings(world.tiers, run)

    assert counts(await reconciled(world, tenant, None)) == {"erased_not_looked_for": 1}, "and says so without a ledger"


async def test_a_ledger_that_cannot_be_read_refuses_the_run(
    world: World, tenant: UUID, ledger: ErasureLedger, tmp_path: Path
) -> None:
    await Penguin(world.tiers, ledger).subjects.erase(tenant, ADDRESS)
    run = await reconciled(world, tenant, ErasureLedger(tmp_path / "ledger", tmp_path / "copy", b"x" * 32))
    assert run.status == pb.RECONCILE_STATUS_REFUSED
    assert run.refused_reason.startswith("the ledger of erasures: record 1 of the ledger is sealed with another key")


@pytest.fixture
def looked_for(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom runs have looked for, one each; of "slow@example.com" a tier has too much to look through in time."""
    monkeypatch.setattr(comparing, "PEOPLE", 1)
    found: list[str] = []
    counted = comparing.SubjectsComparison._counted

    async def noted(self: comparing.SubjectsComparison, address: str, stored: Any) -> Any:
        found.append(address)
        return None if address == "slow@example.com" else await counted(self, address, stored)

    monkeypatch.setattr(comparing.SubjectsComparison, "_counted", noted)
    return found


async def test_more_people_than_one_run_looks_for_are_looked_for_as_run_follows_run(
    world: World, tenant: UUID, ledger: ErasureLedger, looked_for: list[str]
) -> None:
    people = [ADDRESS, OTHER, "eve@example.com"]
    for address in (*people, ADDRESS.upper()):
        await Penguin(world.tiers, ledger).subjects.erase(tenant, address)
    assert len((await comparing.ordered(ledger))[tenant]) == 4
    for _ in range(len(people)):
        run = await reconciled(world, tenant, ledger)
        told = counts(run)
        assert (told["erased_looked_for"], told["erased_not_looked_for"]) == (1, 2), "who was erased twice is one"
    assert sorted(looked_for) == sorted(people)
    # One who is erased meanwhile has a turn too, and the round goes on.
    await Penguin(world.tiers, ledger).subjects.erase(tenant, "dan@example.com")
    for _ in range(4):
        await reconciled(world, tenant, ledger)
    assert sorted(looked_for[3:]) == sorted([*people, "dan@example.com"])


async def test_somebody_who_cannot_be_looked_for_in_time_hides_nobody(
    world: World, tenant: UUID, ledger: ErasureLedger, looked_for: list[str]
) -> None:
    for address in ("slow@example.com", OTHER):
        await Penguin(world.tiers, ledger).subjects.erase(tenant, address)
    told = [counts(await reconciled(world, tenant, ledger)) for _ in range(2)]
    assert [each.get("erased_looked_for", 0) for each in told] == [0, 1]
    assert looked_for == ["slow@example.com", OTHER]


async def test_runs_that_look_for_nobody_leave_the_round_where_it_was(
    world: World, tenant: UUID, ledger: ErasureLedger, looked_for: list[str], tmp_path: Path
) -> None:
    people = [ADDRESS, OTHER, "eve@example.com"]
    for address in people:
        await Penguin(world.tiers, ledger).subjects.erase(tenant, address)
    empty = ErasureLedger(tmp_path / "other", tmp_path / "other copy", b"k" * 32)
    for other in (None, empty, None):  # as a process without the ledger, or with one that does not know the tenant
        await reconciled(world, tenant, ledger)
        await reconciled(world, tenant, other)
    assert looked_for == people
