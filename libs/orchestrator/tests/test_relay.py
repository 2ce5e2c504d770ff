"""What a tier owes arrives: at least once, with the same ids each time, and no destination waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from libs.orchestrator.tests.conftest import Make
from libs.orchestrator.tests.stored import contents, emails, jobs, outgoing, owed, until
from services.oltp.tests.rows import new_template

from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin.tier.v1 import tier_service_pb2 as tier_pb
from penguin.tier.v1.tier_service_pb2_grpc import TierServiceStub
from penguin_chassis import outbox
from penguin_chassis.outbox import Owed
from penguin_chassis.pool import Database
from penguin_oltp.domain.emails import LATEST
from penguin_orchestrator import relay as relaying
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.deliveries import Row, enqueue_jobs
from penguin_orchestrator.messages import Sent
from penguin_orchestrator.relay import Relay
from penguin_orchestrator.sending import Sender
from penguin_testkit.faults import Break, Code, Faults

LEASE, SETTLE, CLAIM, ENQUEUE = "LeaseOutbox", "SettleOutbox", "ClaimContents", "EnqueueJobs"
DELETE = "DeleteContents"


@pytest.fixture(autouse=True)
async def nothing_owed_before(oltp_db: Database) -> None:
    """A relay takes what it finds."""
    async with oltp_db.maintenance() as connection:
        await connection.execute("DELETE FROM outbox")


@pytest.fixture
def relay(tiers: dict[str, Tier]) -> Relay:
    return Relay(tiers["oltp"], tiers, 200)


@contextlib.asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()


async def owe(db: Database, tenant: UUID, *things: tuple[str, str, dict[str, Any]]) -> list[UUID]:
    """Put rows into the outbox: destination, kind, payload."""
    rows = [Owed(uuid4(), destination, kind, payload) for destination, kind, payload in things]
    async with db.tenant(tenant) as connection:
        await outbox.append(connection, tenant, rows, datetime.now(UTC))
    return [row.id for row in rows]


def job(email: str = "e") -> tuple[str, str, dict[str, Any]]:
    return "queue", "enqueue_jobs", {"kind": "email.send", "jobs": [{"email_id": email}]}


async def send(tiers: dict[str, Tier], tenant: UUID, count: int = 3) -> set[str]:
    sent = await Sender(tiers["content"], tiers["oltp"]).send_emails(tenant, [outgoing() for _ in range(count)])
    return {each.storage_key for each in sent if isinstance(each, Sent)}


async def test_what_is_owed_is_delivered_and_settled(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, content_db: Database, queue_db: Database
) -> None:
    keys = await send(tiers, tenant)
    assert await relay.turn() == 2
    assert await owed(oltp_db, tenant) == []
    assert await contents(content_db, tenant) == dict.fromkeys(keys, "claimed")
    assert await jobs(queue_db, tenant) == 3
    assert await relay.turn() == 0


async def test_what_a_tenant_was_promised_before_its_close_ends(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, content_db: Database, queue_db: Database
) -> None:
    """Its letters are kept, and what can be sent no more is taken back."""
    keys = await send(tiers, tenant)
    await owe(oltp_db, tenant, ("content", "delete_contents", {"storage_keys": ["a" * 32]}))
    for tier in (tiers["oltp"], tiers["content"], tiers["queue"]):
        request = tier_pb.CloseTenantRequest(tenant_id=str(tenant), request_id=str(uuid4()))
        await tier.call(tier.stub(TierServiceStub).CloseTenant, request)
    assert await relay.turn() == 3
    assert await owed(oltp_db, tenant) == []
    assert await contents(content_db, tenant) == dict.fromkeys(keys, "claimed")
    assert await jobs(queue_db, tenant) == 0
    async with oltp_db.tenant(tenant) as connection:
        statuses = await connection.fetch("SELECT status FROM emails WHERE tenant_id = $1", tenant)
    assert [row["status"] for row in statuses] == ["cancelled"] * 3


async def test_what_is_acknowledged_for_the_last_moment_has_a_job_then(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, queue_db: Database
) -> None:
    """What OLTP takes Queue takes."""
    last = outgoing(send_at=LATEST - timedelta(microseconds=1))
    (sent,) = await Sender(tiers["content"], tiers["oltp"]).send_emails(tenant, [last])
    assert isinstance(sent, Sent)
    await relay.turn()
    assert (await owed(oltp_db, tenant), await jobs(queue_db, tenant)) == ([], 1)


@pytest.mark.parametrize(("count", "late"), [(3, 1), (25, 25), (25, 1)])
async def test_an_email_whose_job_is_refused_for_good_is_taken_back_and_owed_no_more(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, queue_db: Database, count: int, late: int
) -> None:
    """Alone among others, and as a batch."""
    await send(tiers, tenant, count)
    ids = sorted(str(each) for each in await emails(oltp_db, tenant))
    async with oltp_db.tenant(tenant) as connection:
        await connection.execute("DELETE FROM outbox WHERE tenant_id = $1", tenant)
    due = {"run_at": "9500-01-01T00:00:00+00:00"}
    asked = [{"email_id": each} | (due if n < late else {}) for n, each in enumerate(ids)]
    await owe(oltp_db, tenant, ("queue", "enqueue_jobs", {"kind": "email.send", "jobs": asked}))
    assert await relay.turn() == 1
    assert (await owed(oltp_db, tenant), await jobs(queue_db, tenant)) == ([], count - late)
    async with oltp_db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT id, status FROM emails WHERE tenant_id = $1 ORDER BY id", tenant)
    assert [(str(row["id"]), row["status"]) for row in rows] == [
        (each, "cancelled" if n < late else "queued") for n, each in enumerate(ids)
    ]


async def test_a_template_s_contents_are_claimed_and_deleted_in_the_order_of_its_changes(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, faults: dict[str, Faults]
) -> None:
    oltp, templates = tiers["oltp"], tiers["oltp"].stub(TemplateServiceStub)
    made = new_template()
    named: dict[str, Any] = {"tenant_id": str(tenant), "template_id": made.id}
    await oltp.call(templates.CreateTemplate, template_pb.CreateTemplateRequest(tenant_id=str(tenant), template=made))
    update = template_pb.TemplateUpdate(content_storage_key="k/new", content_generation=3)
    mask = FieldMask(paths=["content_storage_key", "content_generation"])
    changed = template_pb.UpdateTemplateRequest(**named, request_id=str(uuid4()), template=update, update_mask=mask)
    await oltp.call(templates.UpdateTemplate, changed)
    await oltp.call(templates.DeleteTemplate, template_pb.DeleteTemplateRequest(**named, request_id=str(uuid4())))
    expected = [(CLAIM, made.content_storage_key), (CLAIM, "k/new")]
    expected += [(DELETE, made.content_storage_key), (DELETE, "k/new")]
    for n in range(len(expected)):
        assert await relay.turn() == 1
        told = [(method, key) for method in (CLAIM, DELETE) for each in faults["content"].requests.get(method, ())
                for key in each.storage_keys]  # fmt: skip
        assert told == expected[: n + 1]
    assert await relay.turn() == 0


async def test_after_a_crash_before_the_settlement_the_same_is_delivered_again(
    relay: Relay,
    tiers: dict[str, Tier],
    tenant: UUID,
    faults: dict[str, Faults],
    oltp_db: Database,
    queue_db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await send(tiers, tenant)
    monkeypatch.setattr(relaying, "LEASE_S", 1)
    faults["oltp"].breaks(SETTLE, *[Break(Code.UNAVAILABLE)] * 100)
    assert await relay.turn() == 2
    assert await jobs(queue_db, tenant) == 3
    assert len(await owed(oltp_db, tenant)) == 2
    faults["oltp"].heal()
    another = Relay(tiers["oltp"], tiers, 200)
    async with asyncio.timeout(5):
        while await another.turn() == 0:  # noqa: ASYNC110 - the lease runs out by the database's clock
            await asyncio.sleep(0.1)
    first, second = faults["queue"].requests[ENQUEUE]
    assert [j.request_id for j in first.jobs] == [j.request_id for j in second.jobs]
    first, second = faults["content"].requests[CLAIM]
    assert first == second
    assert await jobs(queue_db, tenant) == 3
    assert await owed(oltp_db, tenant) == []


async def test_a_delivery_whose_answer_was_lost_is_made_again_without_a_second_effect(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, faults: dict[str, Faults], oltp_db: Database, queue_db: Database
) -> None:
    await send(tiers, tenant)
    faults["queue"].breaks(ENQUEUE, Break(Code.UNAVAILABLE, acted=True))
    async with running(relay):
        await until(lambda: _settled(oltp_db, tenant), within_s=10)
    assert await jobs(queue_db, tenant) == 3
    assert len(faults["queue"].requests[ENQUEUE]) == 2


async def _settled(db: Database, tenant: UUID) -> bool:
    return await owed(db, tenant) == []


async def test_rows_for_a_destination_that_is_away_wait_while_others_flow(
    tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, content_db: Database, make: Make, ports: dict[str, int]
) -> None:
    there = tiers["queue"]
    tiers["queue"] = make("queue", 9, Faults())
    relay = Relay(tiers["oltp"], tiers, 200)
    async with running(relay):
        keys = await send(tiers, tenant)
        await until(lambda: _state(content_db, tenant, keys, "claimed"))
        await until(lambda: _tried(oltp_db, tenant))
        ((destination, attempt, error),) = await owed(oltp_db, tenant)
        assert destination == "queue"
        assert error.startswith("UNAVAILABLE")
        # It is asked again with longer and longer pauses, not all the time.
        await asyncio.sleep(1.5)
        ((_, later, _),) = await owed(oltp_db, tenant)
        assert later - attempt <= 5
        # What comes meanwhile for others is not held up.
        more = await send(tiers, tenant)
        started = time.monotonic()
        await until(lambda: _state(content_db, tenant, more, "claimed"))
        assert time.monotonic() - started < 2
        tiers["queue"] = there
        await until(lambda: _settled(oltp_db, tenant), within_s=15)


async def _state(db: Database, tenant: UUID, keys: set[str], state: str) -> bool:
    states = await contents(db, tenant)
    return all(states.get(key) == state for key in keys)


async def _tried(db: Database, tenant: UUID) -> bool:
    return any(error for _, _, error in await owed(db, tenant))


async def test_a_destination_that_hangs_holds_up_no_other(
    tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, content_db: Database, make: Make
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tiers["queue"] = make("queue", silent.getsockname()[1], Faults())
        async with running(Relay(tiers["oltp"], tiers, 200)):
            for _ in range(3):
                keys = await send(tiers, tenant)
                started = time.monotonic()
                await until(lambda keys=keys: _state(content_db, tenant, keys, "claimed"))  # type: ignore[misc]
                assert time.monotonic() - started < 2


async def test_a_tier_that_is_away_is_waited_for(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, faults: dict[str, Faults], oltp_db: Database
) -> None:
    await send(tiers, tenant)
    faults["oltp"].breaks(LEASE, *[Break(Code.UNAVAILABLE, "TIER_DB_DOWN")] * 2)
    async with running(relay):
        await until(lambda: _settled(oltp_db, tenant), within_s=10)
    assert 3 <= len(faults["oltp"].requests[LEASE]) < 60


async def test_one_tenants_quota_leaves_no_destination_alone(
    relay: Relay, tenant: UUID, faults: dict[str, Faults], oltp_db: Database
) -> None:
    await owe(oltp_db, tenant, job())
    faults["queue"].breaks(ENQUEUE, Break(Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA"))
    assert await relay.turn() == 1
    assert "queue" in relay._away.present()
    assert (await owed(oltp_db, tenant))[0][2] == "RESOURCE_EXHAUSTED TENANT_QUOTA"


async def test_what_nobody_understands_is_reported_kept_and_stops_nothing(
    relay: Relay,
    tiers: dict[str, Tier],
    tenant: UUID,
    oltp_db: Database,
    content_db: Database,
    queue_db: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await owe(
        oltp_db, tenant, ("queue", "no_such_kind", {}), ("queue", "enqueue_jobs", {"kind": "email.send"}),
        ("queue", "enqueue_jobs", {"kind": "email.send", "jobs": 7}),
        ("queue", "enqueue_jobs", {"kind": "email.send", "jobs": [["a", "list"]]}),
        ("queue", "enqueue_jobs", {"kind": "email.send", "jobs": [{"priority": "no such priority"}]}),
        ("content", "claim_contents", {"storage_keys": []}), job("good"),
    )  # fmt: skip
    async with oltp_db.tenant(tenant) as connection:
        await connection.execute(
            "INSERT INTO outbox (tenant_id, id, destination, kind, payload, available_at, created_at)"
            " VALUES ($1, $2, 'queue', 'enqueue_jobs', 'no json', now(), now())",
            tenant,
            uuid4(),
        )
    keys = await send(tiers, tenant)
    async with running(relay):
        await until(lambda: _state(content_db, tenant, keys, "claimed"))
        await until(lambda: _has_jobs(queue_db, tenant, 4))
        await until(lambda: _reported(oltp_db, tenant, 6), within_s=10)
    errors = {error for _, _, error in await owed(oltp_db, tenant)}
    assert errors == {
        "nobody delivers queue/no_such_kind", "KeyError", "TypeError", "AttributeError", "ValueError", "JSONDecodeError",
    }  # fmt: skip
    assert await jobs(queue_db, tenant) == 4


async def _has_jobs(db: Database, tenant: UUID, count: int) -> bool:
    return await jobs(db, tenant) == count


async def _reported(db: Database, tenant: UUID, count: int) -> bool:
    rows = await owed(db, tenant)
    return len(rows) == count and all(error for _, _, error in rows)


async def test_a_refused_row_is_found_among_many(
    relay: Relay, tenant: UUID, faults: dict[str, Faults], oltp_db: Database, queue_db: Database
) -> None:
    """A row that a tier refuses for good, between others of the same call."""
    await owe(oltp_db, tenant, *(job(str(n)) for n in range(30)), ("queue", "enqueue_jobs", {"kind": "", "jobs": [{}]}))
    assert await relay.turn() == 31
    ((_, attempt, error),) = await owed(oltp_db, tenant)
    assert (attempt, error) == (1, "INVALID_ARGUMENT INVALID_FIELD")
    assert await jobs(queue_db, tenant) == 30
    assert len(faults["queue"].requests[ENQUEUE]) <= 12


async def test_two_relays_share_the_work(
    tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, queue_db: Database
) -> None:
    await owe(oltp_db, tenant, *(job(str(n)) for n in range(120)))
    relays = [Relay(tiers["oltp"], tiers, 30) for _ in range(2)]
    moved = 0
    for _ in range(6):
        moved += sum(await asyncio.gather(*(relay.turn() for relay in relays)))
    assert moved == 120
    assert await jobs(queue_db, tenant) == 120
    assert await owed(oltp_db, tenant) == []


async def test_a_relay_with_nothing_to_do_is_quiet(
    relay: Relay, faults: dict[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(relay):
        await asyncio.sleep(1)
    assert len(faults["oltp"].requests[LEASE]) < 25


async def test_a_row_goes_as_a_batch_for_each_rate_key_and_few_of_one_go_one_by_one(
    tiers: dict[str, Tier], tenant: UUID, faults: dict[str, Faults], queue_db: Database
) -> None:
    keyed = [{"email_id": str(n), "rate_key": ("a", "b")[n % 2]} for n in range(50)]
    few = [{"email_id": str(n), "rate_key": f"few-{n // 7}"} for n in range(7, 21)]
    plain = [{"email_id": str(n)} for n in range(30)]
    row = Row(uuid4(), {"kind": "email.send", "jobs": keyed + few + plain}, "")
    for times in (1, 2):  # the second time changes nothing
        await enqueue_jobs(tiers, tenant, [row])
        requests = faults["queue"].requests
        batches = [(each.rate_key, len(each.payloads)) for each in requests["EnqueueBatch"]]
        assert batches == [("a", 25), ("b", 25), ("", 30)] * times
        singles = [[job.rate_key for job in each.jobs] for each in requests[ENQUEUE]]
        assert singles == [["few-1"] * 7 + ["few-2"] * 7] * times
        assert await jobs(queue_db, tenant) == 94
    async with queue_db.tenant(tenant) as connection:
        rows = await connection.fetch("SELECT rate_key, count(*) FROM jobs GROUP BY 1 ORDER BY 1 NULLS LAST")
        told = await connection.fetchval("SELECT count(*) FROM jobs WHERE convert_from(payload, 'utf8') ~ 'rate_key'")
    assert [tuple(each) for each in rows] == [("a", 25), ("b", 25), ("few-1", 7), ("few-2", 7), (None, 30)]
    assert told == 0
