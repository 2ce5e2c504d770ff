"""Reconcile over the real tiers: it finds what was planted and nothing else, deletes true orphans past their grace, and
does nothing at all on an answer that is missing, old or short."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from services.oltp.tests.rows import make_tenant

from penguin.notifications.v1 import admin_event_service_pb2 as event_pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1.reconcile_service_pb2_grpc import ReconcileServiceStub
from penguin_chassis.pool import Database
from penguin_devstack.roles import TierDatabase
from penguin_notifications.app import serving as serve_notifications
from penguin_notifications.config import NotificationsConfig
from penguin_olap.app import serving as serve_olap
from penguin_olap.config import OlapConfig
from penguin_orchestrator import keys
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.reconciling import mending, reading, receipts
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import Reconciler, closed_before
from penguin_orchestrator.relay import Relay
from penguin_testkit.databases import Databases
from penguin_testkit.faults import Break, Faults
from penguin_testkit.tokens import TokenFactory

Code = grpc.StatusCode
CLOSED = closed_before(time.time()) - 1
APPLY = Terms(apply=True, grace=timedelta(days=7))

CONTENT = """
INSERT INTO content_objects (tenant_id, storage_key, state, generation, claim_by, created_at, content_hash, raw_source,
    codec, raw_size, stored_size, attachment_count, defects, body, quarantined_at)
SELECT $1, key, $4, $3, $5, now(), sha256(key::bytea), false, 'none', 1, 1, 0, '{}', 'x', $6
FROM unnest($2::text[]) AS key"""
EMAIL = """
INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status, priority,
    content_storage_key, content_generation, message_id, queued_at)
SELECT $1, gen_random_uuid(), 'a@example.com', '', 'us@example.com', '', 's', 'sent', 'normal', key, $3, key, now()
FROM unnest($2::text[]) AS key"""
INBOX = """
INSERT INTO inbox_message_refs (tenant_id, id, mailbox, direction, message_id, in_reply_to, thread_id, sender, subject,
    received_at, content_storage_key, content_generation, fingerprint, defects)
SELECT $1, gen_random_uuid(), 'm@example.com', 'inbound', key, '', key, 'a@example.com', 's', now(), key, $3, key, '{}'
FROM unnest($2::text[]) AS key"""


def minted(count: int) -> list[str]:
    return [f"k/{uuid4().hex}" for _ in range(count)]


class World:
    """A tenant whose keys are planted on either side, straight into the databases."""

    def __init__(self, tenant: UUID, oltp: Database, content: Database) -> None:
        self.tenant = tenant
        self._oltp = oltp
        self._content = content

    async def keep(
        self,
        stored: list[str],
        *,
        state: str = "claimed",
        generation: int = CLOSED,
        quarantined_s: float | None = None,
        claim_s: float = -60,
    ) -> list[str]:
        """Contents of these keys; in quarantine for so many seconds, where that is given."""
        since = None if quarantined_s is None else datetime_ago(quarantined_s)
        async with self._content.tenant(self.tenant) as connection:
            await connection.execute(CONTENT, self.tenant, stored, generation, state, datetime_ago(-claim_s), since)
        return stored

    async def refer(self, stored: list[str], *, generation: int = CLOSED, by: str = EMAIL) -> list[str]:
        """Rows that refer to these keys."""
        async with self._oltp.tenant(self.tenant) as connection:
            await connection.execute(by, self.tenant, stored, generation)
        return stored

    async def both(self, count: int, **where: Any) -> list[str]:
        """Keys that agree."""
        return await self.refer(await self.keep(minted(count), **where), **where)

    async def states(self) -> dict[str, tuple[str, bool]]:
        """State, and whether in quarantine, by key."""
        async with self._content.tenant(self.tenant) as connection:
            rows = await connection.fetch(
                "SELECT storage_key, state, quarantined_at IS NOT NULL AS aside FROM content_objects"
                " WHERE tenant_id = $1", self.tenant,
            )  # fmt: skip
        return {row["storage_key"]: (row["state"], row["aside"]) for row in rows}

    async def execute(self, statement: str, *values: Any) -> None:
        """Change what stands in Content."""
        async with self._content.tenant(self.tenant) as connection:
            await connection.execute(statement, self.tenant, *values)


def datetime_ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


@pytest.fixture(scope="module")
async def more_ports(databases: Databases, tokens: TokenFactory) -> AsyncIterator[dict[str, int]]:
    """The tiers that hold no keys, and must say so."""
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        known: tuple[tuple[str, Any, Any], ...] = (
            ("olap", OlapConfig, serve_olap), ("notifications", NotificationsConfig, serve_notifications),
        )  # fmt: skip
        for tier, config, serving in known:
            urls = await databases.clone(tier)
            prefix = tier.upper()
            settings: dict[str, Any] = {
                f"{prefix}_DB_URL": urls.app_url, f"{prefix}_MAINTENANCE_DB_URL": urls.maintenance_url,
                f"{prefix}_LISTEN": "127.0.0.1:0", "PENGUIN_JWKS_PATH": tokens.jwks_path, "PENGUIN_DRAIN_SECONDS": 0.1,
            }  # fmt: skip
            ports[tier] = (await stack.enter_async_context(serving(config(**settings)))).port
        yield ports


@pytest.fixture
def breaks() -> dict[str, Faults]:
    """What is to break, by tier."""
    return {tier: Faults() for tier in reading.TIERS}


@pytest.fixture
async def all_tiers(
    ports: dict[str, int], more_ports: dict[str, int], breaks: dict[str, Faults], make: Any
) -> dict[str, Tier]:
    """All five, each with what breaks on its way."""
    return {name: make(name, (ports | more_ports)[name], breaks[name]) for name in reading.TIERS}


@pytest.fixture
async def world(tenant: UUID, oltp_db: Database, content_db: Database) -> World:
    """This test's tenant; no run of another test is under way."""
    async with oltp_db.maintenance() as connection:
        await connection.execute("UPDATE reconcile_runs SET status = 'finished' WHERE status = 'running'")
    return World(tenant, oltp_db, content_db)


@pytest.fixture
def reconcile(all_tiers: dict[str, Tier], world: World) -> Callable[..., Any]:
    """Run it for this test's tenant alone."""

    async def run(terms: Terms = APPLY, **more: Any) -> pb.ReconcileRun:
        terms = Terms(terms.apply, world.tenant, terms.grace, terms.cap)
        return await Reconciler(all_tiers, **more).run(terms)

    return run


async def findings(tiers: dict[str, Tier], run: pb.ReconcileRun) -> set[tuple[str, str, str]]:
    """Kind, subject and action of what a run found."""
    oltp = tiers["oltp"]
    request = pb.ListReconcileFindingsRequest(run_id=run.id, page_size=1000)
    reply = await oltp.call(oltp.stub(ReconcileServiceStub).ListReconcileFindings, request)
    return {(each.kind, each.subject, each.action) for each in reply.findings}


def refused(run: pb.ReconcileRun, words: str) -> None:
    assert run.status == pb.RECONCILE_STATUS_REFUSED
    assert words in run.refused_reason
    assert not run.counts.get("quarantined")
    assert not run.counts.get("deleted")


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
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, None], ids=["down", "frozen"])
async def test_a_source_that_goes_away_in_the_middle_ends_the_run(
    reconcile: Any,
    world: World,
    breaks: dict[str, Faults],
    tier: str,
    method: str,
    code: Code | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "SUMS_TIMEOUT_S", 2.0)
    monkeypatch.setattr(mending, "DEADLINE_S", 1.0)
    await world.both(5)
    await world.keep(minted(3))
    if method == "FindKeys" and tier == "oltp":
        await world.keep(minted(3), state="quarantined", quarantined_s=30 * 86400)
    before = await world.states()
    breaks[tier].breaks(method, *[Break(code)] * 10)
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

    async def claimed_before(self: Any, doomed: list[str], before: Any) -> int:
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
