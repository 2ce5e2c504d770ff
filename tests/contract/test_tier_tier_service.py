"""TierService: every method, by its contract, against all five tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.contract.harness import Case, Listing, Mutation, ServiceContract, Within, equal
from tests.contract.tiers import POOL_MAX, TIERS
from tests.contract.wire import World, method_at, right_token

from penguin.tier.v1 import erasure_pb2
from penguin.tier.v1 import tier_service_pb2 as pb
from penguin_chassis.mutations import now
from penguin_chassis.outbox import Owed, append

SERVICE = "penguin.tier.v1.TierService"
FENCED = "fenced by the lease's token: a row that was settled is not there a second time"
OWED = "SELECT id, attempt, last_error, lease_token FROM outbox WHERE tenant_id = $1 ORDER BY id"
LEASE = Duration(seconds=60)
HOLD_KEYS = ("oltp", "content")


def destination_of(world: World) -> str:
    """Where the rows of this test alone go: leases span tenants."""
    return f"test-{world.tenant.hex}"


def lease_request(world: World) -> pb.LeaseOutboxRequest:
    """A lease of this test's rows."""
    return pb.LeaseOutboxRequest(
        max_rows=10, max_tenants=10, lease_duration=LEASE, destinations=[destination_of(world)]
    )


async def leased(world: World) -> pb.LeaseOutboxResponse:
    """This test's rows in hand."""
    reply: pb.LeaseOutboxResponse = await world.call(f"{SERVICE}/LeaseOutbox", lease_request(world))
    assert len(reply.rows) == 2
    return reply


async def status(world: World) -> Any:
    return pb.GetStatusRequest()


def check_status(request: Any, reply: Any) -> None:
    assert reply.tier in TIERS
    assert reply.database == pb.DATABASE_STATE_UP
    assert reply.applied_schema_version == reply.schema_version > 0
    assert 0 <= reply.pool_idle <= reply.pool_size <= reply.pool_max == POOL_MAX
    assert not reply.draining
    assert reply.outbox_depth >= 2
    assert reply.HasField("outbox_oldest_age")


async def lease(world: World) -> Any:
    return lease_request(world)


def check_leased(request: Any, reply: Any) -> None:
    assert {row.destination for row in reply.rows} == set(request.destinations)
    assert [row.payload for row in reply.rows] == [b'{"n":0}', b'{"n":1}']
    assert {row.attempt for row in reply.rows} == {1}
    assert UUID(reply.lease_token)


def leased_no_more(first: Any, second: Any) -> None:
    assert (len(first.rows), list(second.rows)) == (2, [])


async def settle(world: World) -> Any:
    lease = await leased(world)
    done, later = lease.rows
    return pb.SettleOutboxRequest(
        lease_token=lease.lease_token,
        delivered=[pb.OutboxRowRef(tenant_id=done.tenant_id, id=done.id)],
        failed=[pb.OutboxRowFailure(tenant_id=later.tenant_id, id=later.id, retry_delay=Duration(), error="test.down")],
    )


def settled(reply: Any) -> tuple[int, int, int]:
    """Delivered, failed, stale."""
    return reply.delivered, reply.failed, reply.stale


def stale_now(first: Any, second: Any) -> None:
    assert settled(first) == (1, 1, 0)
    assert settled(second) == (0, 0, 2)


async def waiting(world: World, request: Any) -> Any:
    """How often each of this test's rows was leased, and how it last failed: nothing the service itself would tell."""
    async with (await world.database()).tenant(world.tenant) as connection:
        rows = await connection.fetch(OWED, world.tenant)
    return [dict(row) for row in rows]


async def sources(world: World) -> Any:
    return pb.GetKeySourcesRequest()


def check_sources(request: Any, reply: Any) -> None:
    assert reply.tier in TIERS
    assert reply.applied_schema_version == reply.schema_version > 0
    assert bool(reply.sources) == (reply.tier in HOLD_KEYS)
    assert all(source.name and source.role for source in reply.sources)


async def known(world: World, request: Any) -> Any:
    """What the tier knows of the tenant."""
    async with (await world.database()).tenant(world.tenant) as connection:
        return await connection.fetchrow("SELECT * FROM tier_tenants WHERE tenant_id = $1", world.tenant)


def check_tenant(request: Any, reply: Any, state: pb.TenantState.ValueType) -> None:
    assert UUID(reply.tenant.tenant_id) == UUID(request.tenant_id)
    assert reply.tenant.state == state
    assert reply.tenant.HasField("closed_at") == (state == pb.TENANT_STATE_CLOSED)
    assert reply.tenant.HasField("provisioned_at")


def another_spelling(request: Any) -> None:
    """The request names nothing that could differ but its tenant: the same one, spelled otherwise."""
    request.tenant_id = request.tenant_id.upper()


async def provision(world: World) -> Any:
    return pb.ProvisionTenantRequest(tenant_id=str(world.tenant), request_id=str(uuid4()))


async def close(world: World) -> Any:
    return pb.CloseTenantRequest(tenant_id=str(world.tenant), request_id=str(uuid4()))


async def reopen(world: World) -> Any:
    await world.call(f"{SERVICE}/CloseTenant", await close(world))
    return pb.ReopenTenantRequest(tenant_id=str(world.tenant), request_id=str(uuid4()))


ADDRESS = "ada@example.com"
SUBJECT = "5" * 64
REMEMBERED = """
INSERT INTO step_barrier (tenant_id, key, operation, digest, reply, created_at)
VALUES ($1, 'req:' || gen_random_uuid(), 'request', '', convert_to('{"to":"Ada@Example.com"}', 'UTF8'), now()),
    ($1, 'req:' || gen_random_uuid(), 'request', '', convert_to('{"to":"wada@example.com"}', 'UTF8'), now())"""


async def erase(world: World) -> Any:
    """An answer that is remembered holds the address, and another one a longer address."""
    async with (await world.database()).tenant(world.tenant) as connection:
        await connection.execute(REMEMBERED, world.tenant)
    return erasure_pb2.EraseSubjectRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), erasure_id=str(uuid4()), subject=SUBJECT, address=ADDRESS,
        chain_head="a" * 64,
    )  # fmt: skip


async def forgotten(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        return await connection.fetchval(
            "SELECT count(*) FROM step_barrier WHERE tenant_id = $1 AND reply IS NULL AND compensated", world.tenant
        )


def check_erased(request: Any, reply: Any) -> None:
    receipt = reply.receipt
    assert (receipt.subject, receipt.erasure_id) == (request.subject, request.erasure_id)
    assert (receipt.chain_head, receipt.tier in TIERS) == (request.chain_head, True)
    assert receipt.HasField("erased_at")
    assert dict(receipt.counts) == {"step_barrier": 1}
    assert (list(reply.mentions), reply.cursor) == ([], "")


# Nothing, and that this was all.
TOLD = [erasure_pb2.ExportSubjectResponse(complete=True)]


async def export(world: World) -> Any:
    return erasure_pb2.ExportSubjectRequest(tenant_id=str(world.tenant), address=ADDRESS, storage_keys=["none"])


async def may_be_erased(world: World) -> Any:
    return erasure_pb2.CheckErasureRequest(tenant_id=str(world.tenant), subject=SUBJECT, storage_keys=["k"])


async def hold(world: World) -> Any:
    return erasure_pb2.PutLegalHoldRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), id=str(uuid4()), subject=SUBJECT, reason="Case 7",
        storage_keys=["k/1", "k/2"], subject_key=bytes(32),
    )  # fmt: skip


async def held(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        return await connection.fetch("SELECT * FROM legal_holds WHERE tenant_id = $1 ORDER BY id", world.tenant)


def check_hold(request: Any, reply: Any) -> None:
    assert (reply.hold.subject, reply.hold.storage_key) == (request.subject, request.storage_key)
    assert (reply.hold.reason, reply.hold.actor, reply.hold.kept_keys) == (request.reason, "test", 2)


async def holds(world: World) -> Any:
    for _ in range(4):
        await world.call(f"{SERVICE}/PutLegalHold", await hold(world))
    return erasure_pb2.ListLegalHoldsRequest(tenant_id=str(world.tenant))


async def extend(world: World) -> Any:
    reply = await world.call(f"{SERVICE}/PutLegalHold", await hold(world))
    return erasure_pb2.ExtendLegalHoldRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), hold_id=reply.hold.id, storage_keys=["k/2", "k/3"]
    )


async def kept(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        return await connection.fetch(
            "SELECT * FROM legal_hold_keys WHERE tenant_id = $1 ORDER BY 1, 2, 3", world.tenant
        )


async def release(world: World) -> Any:
    reply = await world.call(f"{SERVICE}/PutLegalHold", await hold(world))
    return erasure_pb2.ReleaseLegalHoldRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), hold_id=reply.hold.id
    )


async def restored(world: World) -> Any:
    return erasure_pb2.MarkRestoredRequest()


async def restoring(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        return await connection.fetchval("SELECT id <> replayed FROM incarnation")


def another_life(first: Any, second: Any) -> None:
    assert first.incarnation != second.incarnation


async def replayed(world: World) -> Any:
    reply = await world.call(f"{SERVICE}/MarkRestored", erasure_pb2.MarkRestoredRequest())
    return erasure_pb2.MarkReplayedRequest(incarnation=reply.incarnation)


async def let_in(world: World) -> None:
    """Other tests need the tier to serve."""
    status = await world.call(f"{SERVICE}/GetStatus", pb.GetStatusRequest())
    if status.restoring:
        request = erasure_pb2.MarkReplayedRequest(incarnation=status.incarnation)
        await world.call(f"{SERVICE}/MarkReplayed", request)


class TestTierService(ServiceContract):
    service = SERVICE
    tiers = TIERS

    @pytest.fixture
    async def world(self, world: World) -> AsyncIterator[World]:
        """A tier that owes two things; few methods of few tiers would make it owe any."""
        owed = [
            Owed(uuid4(), destination_of(world), "test", {"n": n}, now() - timedelta(seconds=2 - n)) for n in (0, 1)
        ]
        async with (await world.database()).tenant(world.tenant) as connection:
            await append(connection, world.tenant, owed, now())
        yield world
        await let_in(world)

    cases = (
        Case(
            "GetStatus",
            status,
            check_status,
            "its request has no fields",
            "a tier has one status",
        ),
        Case("GetKeySources", sources, check_sources, "its request has no fields", "a tier has its sources or none"),
        Case(
            "LeaseOutbox",
            lease,
            check_leased,
            ("lease_duration", lambda r: r.ClearField("lease_duration")),
            Within(lambda r: r.destinations.__setitem__(0, "nobody"), lambda reply: equal(list(reply.rows), [])),
            mutation=Mutation(waiting, unkeyed="a row that is leased is not leased again", repeats=leased_no_more),
        ),
        Case(
            "SettleOutbox",
            settle,
            lambda request, reply: equal(settled(reply), (1, 1, 0)),
            ("delivered[0].id", lambda r: setattr(r.delivered[0], "id", "x")),
            Within(lambda r: setattr(r, "lease_token", str(uuid4())), lambda reply: equal(settled(reply), (0, 0, 2))),
            mutation=Mutation(waiting, unkeyed=FENCED, repeats=stale_now),
        ),
        Case(
            "ProvisionTenant",
            provision,
            lambda request, reply: check_tenant(request, reply, pb.TENANT_STATE_ACTIVE),
            ("tenant_id", lambda r: setattr(r, "tenant_id", "x")),
            "a tier is told of a tenant that it does not know",
            mutation=Mutation(known, vary=another_spelling),
        ),
        Case(
            "CloseTenant",
            close,
            lambda request, reply: check_tenant(request, reply, pb.TENANT_STATE_CLOSED),
            ("tenant_id", lambda r: setattr(r, "tenant_id", "x")),
            "a tenant that the tier does not know can be closed",
            mutation=Mutation(known, vary=another_spelling),
        ),
        Case(
            "ReopenTenant",
            reopen,
            lambda request, reply: check_tenant(request, reply, pb.TENANT_STATE_ACTIVE),
            ("tenant_id", lambda r: setattr(r, "tenant_id", "x")),
            "a tenant that the tier does not know is active",
            mutation=Mutation(known, vary=another_spelling),
        ),
        Case(
            "EraseSubject",
            erase,
            check_erased,
            ("subject", lambda r: setattr(r, "subject", "ada@example.com")),
            "a tier that holds nothing of a person has erased them",
            stranger=lambda reply: equal(dict(reply.receipt.counts), {}),
            mutation=Mutation(forgotten, vary=lambda r: setattr(r, "subject", "6" * 64)),
        ),
        Case(
            "ExportSubject",
            export,
            lambda request, reply: equal(list(reply), TOLD),
            ("address", lambda r: setattr(r, "address", "nobody")),
            "of a person that is not known there is nothing to tell",
            stranger=lambda reply: equal(list(reply), TOLD),
        ),
        Case(
            "CheckErasure",
            may_be_erased,
            lambda request, reply: None,
            ("subject", lambda r: r.ClearField("subject")),
            "where there is no hold there is nothing to find",
            stranger=lambda reply: None,
        ),
        Case(
            "PutLegalHold",
            hold,
            check_hold,
            ("reason", lambda r: r.ClearField("reason")),
            "a hold may be put on whom the tier does not know",
            stranger=lambda reply: equal(reply.hold.subject, SUBJECT),
            mutation=Mutation(held, vary=lambda r: setattr(r, "reason", "Case 8")),
        ),
        Case(
            "ExtendLegalHold",
            extend,
            lambda request, reply: equal((reply.hold.id, reply.hold.kept_keys), (request.hold_id, 3)),
            ("storage_keys", lambda r: r.ClearField("storage_keys")),
            lambda r: setattr(r, "hold_id", str(uuid4())),
            mutation=Mutation(kept, vary=lambda r: r.storage_keys.append("k/4")),
        ),
        Case(
            "ListLegalHolds",
            holds,
            lambda request, reply: equal([each.reason for each in reply.holds], ["Case 7"] * 4),
            ("page_size", lambda r: setattr(r, "page_size", 1001)),
            "a list of nothing is empty",
            stranger=lambda reply: equal(list(reply.holds), []),
            listing=Listing("holds", 4),
        ),
        Case(
            "ReleaseLegalHold",
            release,
            lambda request, reply: None,
            ("hold_id", lambda r: setattr(r, "hold_id", "x")),
            lambda r: setattr(r, "hold_id", str(uuid4())),
            mutation=Mutation(held, vary=lambda r: setattr(r, "hold_id", str(uuid4()))),
        ),
        Case(
            "MarkRestored",
            restored,
            lambda request, reply: equal(UUID(reply.incarnation).version, 4),
            "it has no fields that could be wrong",
            "it asks for nothing that could be missing",
            mutation=Mutation(restoring, unkeyed="it is restored, once more or not", repeats=another_life),
        ),
        Case(
            "MarkReplayed",
            replayed,
            lambda request, reply: None,
            ("incarnation", lambda r: setattr(r, "incarnation", "x")),
            "an incarnation that is over is refused as a conflict",
            mutation=Mutation(restoring, unkeyed="what is replayed is replayed"),
        ),
    )

    async def test_a_hold_is_asked_before_anything_is_erased(self, world: World) -> None:
        request = await erase(world)
        await world.call(f"{SERVICE}/PutLegalHold", await hold(world))
        for method, refused in (("EraseSubject", request), ("CheckErasure", await may_be_erased(world))):
            path = f"{SERVICE}/{method}"
            refusal = await world.refusal(path, refused, right_token(world, method_at(path), refused))
            assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "LEGAL_HOLD")
            assert refusal.metadata["hold"]
        assert await forgotten(world, request) == 0
        by_key = erasure_pb2.CheckErasureRequest(tenant_id=str(world.tenant), subject="6" * 64, storage_keys=["k"])
        await world.call(f"{SERVICE}/CheckErasure", by_key)

    async def test_a_restored_tier_serves_nobody_until_it_is_replayed(self, world: World) -> None:
        listed = await holds(world)
        listed.page_size = 1
        token = (await world.call(f"{SERVICE}/ListLegalHolds", listed)).next_page_token
        life = (await world.call(f"{SERVICE}/MarkRestored", erasure_pb2.MarkRestoredRequest())).incarnation
        path = f"{SERVICE}/ListLegalHolds"
        refusal = await world.refusal(path, listed, right_token(world, method_at(path), listed))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "RESTORE_NOT_REPLAYED")
        assert await ready(world) == health_pb2.HealthCheckResponse.NOT_SERVING
        # The replay itself is let in.
        replay = await erase(world)
        replay.subject = "6" * 64
        check_erased(replay, await world.call(f"{SERVICE}/EraseSubject", replay))
        path = f"{SERVICE}/MarkReplayed"
        other = erasure_pb2.MarkReplayedRequest(incarnation=str(uuid4()))
        refusal = await world.refusal(path, other, right_token(world, method_at(path), other))
        assert refusal.code == "FAILED_PRECONDITION"
        await world.call(path, erasure_pb2.MarkReplayedRequest(incarnation=life))
        assert await ready(world) == health_pb2.HealthCheckResponse.SERVING
        assert len((await world.call(f"{SERVICE}/ListLegalHolds", listed)).holds) == 1
        # What pointed into the life before points nowhere.
        listed.page_token = token
        path = f"{SERVICE}/ListLegalHolds"
        refusal = await world.refusal(path, listed, right_token(world, method_at(path), listed))
        assert refusal.reason == "INVALID_PAGE_TOKEN"


async def ready(world: World) -> Any:
    request = health_pb2.HealthCheckRequest(service="readiness")
    return (await health_pb2_grpc.HealthStub(world.tier.channel).Check(request, timeout=5)).status
