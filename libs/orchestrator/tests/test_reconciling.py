"""Reconcile over the real tiers: it finds what was planted and nothing else, deletes true orphans past their grace, and
does nothing at all on an answer that is missing, old or short."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from libs.orchestrator.tests.planting import CLOSED, EMAIL, INBOX, World, findings, minted, refused
from libs.orchestrator.tests.stored import owed, until
from services.oltp.tests.rows import make_tenant

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.notifications.v1 import admin_event_service_pb2 as event_pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1.reconcile_service_pb2_grpc import ReconcileServiceStub
from penguin_chassis.pool import Database
from penguin_devstack.roles import TierDatabase
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling import mending, reading, receipts
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler, closed_before
from penguin_orchestrator.reconciling.scheduling import keep_reconciling
from penguin_orchestrator.relay import Relay
from penguin_testkit.faults import Break, Faults

Code = grpc.StatusCode
RUNS = "SELECT status FROM reconcile_runs WHERE tenant_id = $1"


async def test_what_agrees_is_left_alone_and_costs_no_listing(
    reconcile: Any, world: World, breaks: dict[str, Faults]
) -> None:
    await world.both(300)
    run = await reconcile()
    assert run.status == pb.RECONCILE_STATUS_FINISHED
    assert run.counts["keys.content.contents"] == run.counts["keys.oltp.emails"] == 300
    assert not any(run.counts[name] for name in run.counts if name.startswith("found."))
    assert not breaks["content"].requests["ListKeys"]
    assert not breaks["content"].requests["DigestBuckets"]
    assert set((await world.states()).values()) == {("claimed", False)}


async def test_ten_thousand_keys_with_a_hundred_faults_are_found_exactly(
    reconcile: Any, world: World, all_tiers: dict[str, Tier]
) -> None:
    for n in range(10):
        await world.both(900, generation=CLOSED - n)
    inbound = await world.keep(minted(500))
    await world.refer(inbound, by=INBOX)
    orphans, dangling = set[str](), set[str]()
    for n in range(10):
        orphans.update(await world.keep(minted(5), generation=CLOSED - n))
        dangling.update(await world.refer(minted(5), generation=CLOSED - n, by=EMAIL if n % 2 else INBOX))
    old = set(await world.keep(minted(7), state="quarantined", quarantined_s=8 * 86400))
    young = set(await world.keep(minted(3), state="quarantined", quarantined_s=6 * 86400))
    needed = set(await world.keep(minted(2), state="quarantined", quarantined_s=8 * 86400))
    await world.refer(sorted(needed))

    dry = await reconcile(Terms(apply=False))
    assert dry.counts["found.orphans"] == dry.counts["found.dangling"] == 50
    assert (dry.counts["deletable"], dry.counts.get("deleted", 0), dry.counts.get("quarantined", 0)) == (7, 0, 0)
    assert {key for key, (_, aside) in (await world.states()).items() if aside} == old | young | needed

    run = await reconcile()
    assert run.status == pb.RECONCILE_STATUS_FINISHED
    told = await findings(all_tiers, run)
    assert {key for kind, key, action in told if (kind, action) == ("orphan", "quarantined")} == orphans
    assert {key for kind, key, action in told if (kind, action) == ("dangling", "")} == dangling
    assert {key for kind, key, action in told if (kind, action) == ("deletable", "deleted")} == old
    assert {key for kind, key, action in told if (kind, action) == ("wanted", "revived")} == needed
    assert len(told) == 50 + 50 + 7 + 2
    states = await world.states()
    assert not old & states.keys()
    assert {key for key, (_, aside) in states.items() if aside} == orphans | young
    assert run.counts["bytes"] < 200_000

    again = await reconcile()
    assert (again.counts["found.orphans"], again.counts["found.dangling"]) == (0, 50)
    past = Terms(apply=True, grace=timedelta(0))
    assert (await reconcile(past)).counts["deleted"] == len(orphans | young)
    assert len(await world.states()) == 9500 + 2


async def test_generations_that_are_open_are_not_looked_at(reconcile: Any, world: World) -> None:
    open_now = keys.generation()
    await world.keep(minted(3), generation=open_now)
    await world.refer(minted(3), generation=closed_before(time.time()))
    run = await reconcile()
    assert run.counts.get("keys.content.contents", 0) == 0
    assert (run.counts["found.orphans"], run.counts["found.dangling"]) == (0, 0)


async def test_a_content_that_may_yet_be_claimed_is_never_put_aside(reconcile: Any, world: World) -> None:
    early = await world.keep(minted(2), state="unclaimed", claim_s=3600)
    run = await reconcile()
    assert (run.counts["found.orphans"], run.counts["quarantined"]) == (2, 0)
    assert await world.states() == dict.fromkeys(early, ("unclaimed", False))


@pytest.mark.parametrize("tier", reading.TIERS)
async def test_with_a_tier_down_nothing_is_changed(
    reconcile: Any, world: World, breaks: dict[str, Faults], tier: str
) -> None:
    await world.keep(minted(3))
    await world.keep(minted(3), state="quarantined", quarantined_s=30 * 86400)
    before = await world.states()
    breaks[tier].breaks("GetKeySources", *[Break(Code.UNAVAILABLE)] * 10)
    refused(await reconcile(), f"{tier} does not answer")
    assert await world.states() == before


@pytest.mark.parametrize(
    ("tier", "method"),
    [
        ("oltp", "DigestGenerations"), ("content", "DigestGenerations"), ("oltp", "FindKeys"), ("content", "FindKeys"),
        ("content", "ListKeys"), ("content", "ListQuarantinedContents"),
    ],
)  # fmt: skip
async def test_a_source_that_goes_away_in_the_middle_ends_the_run(
    reconcile: Any, world: World, breaks: dict[str, Faults], tier: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "DEADLINE_S", 3.0)
    await world.both(5)
    await world.keep(minted(3))
    if method == "FindKeys" and tier == "oltp":
        await world.keep(minted(3), state="quarantined", quarantined_s=30 * 86400)
    before = await world.states()
    breaks[tier].breaks(method, *[Break(Code.UNAVAILABLE)] * 10)
    refused(await reconcile(), f"{tier} does not answer")
    assert await world.states() == before


async def test_a_tier_that_lacks_a_migration_ends_the_run(
    reconcile: Any, world: World, urls: dict[str, TierDatabase]
) -> None:
    await world.keep(minted(3))
    owner = await asyncpg.connect(urls["oltp"].owner_url)
    try:
        last = await owner.fetchrow(
            "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations) RETURNING *"
        )
        assert last is not None
        try:
            refused(await reconcile(), "oltp has not all of its migrations")
        finally:
            marks = ", ".join(f"${n + 1}" for n in range(len(last)))
            await owner.execute(
                f"INSERT INTO schema_migrations ({', '.join(last.keys())}) VALUES ({marks})", *last.values()
            )
    finally:
        await owner.close()


async def test_a_tier_that_no_longer_names_a_source_ends_the_run(
    reconcile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "REQUIRED", reading.REQUIRED | {"oltp.drafts"})
    refused(await reconcile(), "oltp.drafts is not among the sources")


class Shortened(Faults):
    """Leaves the last item out of a method's answers."""

    def __init__(self, method: str, items: str) -> None:
        super().__init__()
        self._method, self._items = method, items

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await super().intercept_unary_unary(continuation, client_call_details, request)
        if not client_call_details.method.endswith(self._method.encode()):
            return call
        reply = await call
        if items := getattr(reply, self._items):
            del items[-1]
        return reply


@pytest.mark.parametrize(
    ("tier", "method", "items"),
    [
        ("oltp", "DigestGenerations", "digests"), ("oltp", "DigestBuckets", "digests"), ("oltp", "ListKeys", "keys"),
        ("content", "ListKeys", "keys"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_short_ends_the_run(
    all_tiers: dict[str, Tier], ports: dict[str, int], make: Any, world: World, tier: str, method: str, items: str
) -> None:
    await world.both(100)
    await world.keep(minted(2))
    short = all_tiers | {tier: make(tier, ports[tier], Shortened(method, items))}
    run = await Reconciler(short).run(Terms(apply=True, tenant_id=world.tenant))
    refused(run, f"{tier}.")
    assert set((await world.states()).values()) == {("claimed", False)}


async def test_a_key_claimed_between_its_look_up_and_its_deletion_survives(
    reconcile: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = await world.keep(minted(2), state="quarantined", quarantined_s=30 * 86400)
    delete = mending.Mender.delete

    async def claimed_before(self: Any, doomed: list[str], before: Any) -> tuple[int, set[str]]:
        assert key in doomed
        await world.refer([key])
        await world.execute(
            "UPDATE content_objects SET state = 'claimed', quarantined_at = NULL"
            " WHERE tenant_id = $1 AND storage_key = $2", key,
        )  # fmt: skip
        return await delete(self, doomed, before)

    monkeypatch.setattr(mending.Mender, "delete", claimed_before)
    run = await reconcile()
    assert run.counts["deleted"] == 1
    assert await world.states() == {key: ("claimed", False)}
    assert other not in await world.states()


async def test_no_more_than_the_cap_is_put_aside_or_deleted(reconcile: Any, world: World) -> None:
    await world.keep(minted(7))
    await world.keep(minted(9), state="quarantined", quarantined_s=30 * 86400)
    run = await reconcile(Terms(apply=True, cap=4))
    assert (run.counts["found.orphans"], run.counts["quarantined"], run.counts["over_cap"]) == (7, 4, 3)
    assert run.counts["deleted"] == 4
    assert sorted((await world.states()).values()) == [("claimed", False)] * 3 + [("quarantined", True)] * 9


class KilledError(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("at", range(1, 9))
async def test_killed_at_any_word_to_its_receipt_and_run_again_it_is_right(
    reconcile: Any, world: World, monkeypatch: pytest.MonkeyPatch, oltp_db: Database, at: int
) -> None:
    monkeypatch.setattr("penguin_orchestrator.reconciling.comparing.WINDOW", 2)
    orphans = [key for n in range(6) for key in await world.keep(minted(2), generation=CLOSED - n)]
    old = await world.keep(minted(3), state="quarantined", quarantined_s=30 * 86400)
    record, words = receipts.Receipt.record, iter(range(1, 100))

    async def killed(self: Any, *rest: Any) -> None:
        if next(words) == at:
            raise KilledError
        await record(self, *rest)

    monkeypatch.setattr(receipts.Receipt, "record", killed)
    with pytest.raises(KilledError):
        await reconcile()
    monkeypatch.setattr(receipts.Receipt, "record", record)
    with pytest.raises(TierError, match="under way"):
        await reconcile()
    async with oltp_db.maintenance() as connection:
        left = await connection.fetchval(
            "UPDATE reconcile_runs SET leased_until = now() WHERE status = 'running' RETURNING id"
        )
    run = await reconcile()
    assert (run.id, run.status) == (str(left), pb.RECONCILE_STATUS_FINISHED)
    assert await world.states() == dict.fromkeys(orphans, ("quarantined", True))
    assert not set(old) & (await world.states()).keys()


async def test_a_tenant_that_may_not_be_changed_is_left_out_and_the_others_go_on(
    all_tiers: dict[str, Tier],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    oltp_db: Database,
    content_db: Database,
) -> None:
    other = World(await make_tenant(oltp_db), oltp_db, content_db)
    await world.keep(minted(1))
    await other.keep(minted(1))
    closed, call = world.tenant, Tier.insist

    async def refused_there(self: Tier, method: Any, request: Any, **how: Any) -> Any:
        if isinstance(request, content_pb.QuarantineContentsRequest) and request.tenant_id == str(closed):
            raise TierError("content", Code.FAILED_PRECONDITION, "STATE_CONFLICT", "It is closed.")
        return await call(self, method, request, **how)

    monkeypatch.setattr(Tier, "insist", refused_there)
    run = await Reconciler(all_tiers).run(Terms(apply=True))
    assert run.status == pb.RECONCILE_STATUS_FINISHED
    assert run.counts["tenants_left_out"] == 1
    assert list((await world.states()).values()) == [("claimed", False)]
    assert list((await other.states()).values()) == [("quarantined", True)]


async def test_who_lost_its_run_to_another_changes_nothing_more(
    reconcile: Any, world: World, monkeypatch: pytest.MonkeyPatch, oltp_db: Database
) -> None:
    await world.keep(minted(3))
    window = "penguin_orchestrator.reconciling.running.confirmed"

    async def taken_over(*given: Any) -> Any:
        async with oltp_db.maintenance() as connection:
            await connection.execute("UPDATE reconcile_runs SET owner = $1 WHERE status = 'running'", uuid4())
        return await mending.confirmed(*given)

    monkeypatch.setattr(window, taken_over)
    with pytest.raises(TierError, match="not the caller's"):
        await reconcile()
    assert set((await world.states()).values()) == {("claimed", False)}


async def test_all_tenants_are_run_and_their_keys_never_mixed(
    all_tiers: dict[str, Tier], world: World, oltp_db: Database, content_db: Database
) -> None:
    """One tenant's orphan is another's reference, under the same key: neither excuses the other."""
    other = World(await make_tenant(oltp_db), oltp_db, content_db)
    (key,) = await world.keep(minted(1))
    await other.refer([key])
    run = await Reconciler(all_tiers).run(Terms())
    oltp = all_tiers["oltp"]
    request = pb.ListReconcileFindingsRequest(run_id=run.id, page_size=1000)
    reply = await oltp.call(oltp.stub(ReconcileServiceStub).ListReconcileFindings, request)
    told = {(each.tenant_id, each.kind) for each in reply.findings if each.subject == key}
    assert told == {(str(world.tenant), "orphan"), (str(other.tenant), "dangling")}
    # Such a run is the platform's, and so is the event that it is worth.
    await Relay(all_tiers["oltp"], all_tiers, 1000).turn()
    notifications = all_tiers["notifications"]
    listed = await notifications.call(
        notifications.stub(AdminEventServiceStub).ListAdminEvents, event_pb.ListAdminEventsRequest(page_size=1000)
    )
    assert [e.event_type for e in listed.admin_events if not e.tenant_id] == ["reconcile.found"]
    assert await owed(oltp_db, UUID(int=0)) == []


async def test_findings_become_one_admin_event(reconcile: Any, world: World, all_tiers: dict[str, Tier]) -> None:
    await world.keep(minted(20))
    await world.refer(minted(10))
    run = await reconcile()
    await Relay(all_tiers["oltp"], all_tiers, 200).turn()
    notifications = all_tiers["notifications"]
    request = event_pb.ListAdminEventsRequest(tenant_id=str(world.tenant))
    (event,) = (
        await notifications.call(notifications.stub(AdminEventServiceStub).ListAdminEvents, request)
    ).admin_events
    assert (event.event_type, event.occurrences) == ("reconcile.found", 1)
    assert event.details["run_id"] == run.id
    assert "20 orphans" in event.description


async def test_a_run_that_finds_nothing_raises_no_event(reconcile: Any, world: World, oltp_db: Database) -> None:
    await world.both(3)
    await reconcile()
    async with oltp_db.tenant(world.tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox WHERE tenant_id = $1", world.tenant) == 0


async def test_too_soon_after_the_last_there_is_no_other(all_tiers: dict[str, Tier], world: World) -> None:
    terms = Terms(tenant_id=world.tenant)
    await Reconciler(all_tiers).run(terms, min_interval=timedelta(hours=1))
    with pytest.raises(TierError, match="too short"):
        await Reconciler(all_tiers).run(terms, min_interval=timedelta(hours=1))
    await Reconciler(all_tiers).run(terms)


async def test_of_two_processes_that_keep_reconciling_one_runs(
    all_tiers: dict[str, Tier], world: World, oltp_db: Database
) -> None:
    terms, every = Terms(tenant_id=world.tenant), timedelta(hours=1)
    both = [asyncio.create_task(keep_reconciling(Reconciler(all_tiers), terms, every, ask_s=0.05)) for _ in range(2)]

    async def ended() -> bool:
        async with oltp_db.maintenance() as connection:
            statuses = await connection.fetch(RUNS, world.tenant)
        return [row["status"] for row in statuses] == ["finished"]

    await until(ended, within_s=10)
    await asyncio.sleep(0.5)  # both have asked again by now
    assert await ended()
    for task in both:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*both, return_exceptions=True)
