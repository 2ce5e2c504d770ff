"""TierService: every method, by its contract, against all five tiers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from tests.contract import tier_erasure
from tests.contract.cases import Case, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.tier_erasure import SERVICE
from tests.contract.tiers import POOL_MAX, TIERS
from tests.contract.wire import World, method_at, right_token

from penguin.tier.v1 import erasure_pb2
from penguin.tier.v1 import tier_service_pb2 as pb
from penguin_chassis.mutations import now
from penguin_chassis.outbox import Owed, append

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
        await tier_erasure.let_in(world)

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
        *tier_erasure.CASES,
    )

    async def test_a_hold_is_asked_before_anything_is_erased(self, world: World) -> None:
        request = await tier_erasure.erase(world)
        await world.call(f"{SERVICE}/PutLegalHold", await tier_erasure.hold(world))
        for method, refused in (("EraseSubject", request), ("CheckErasure", await tier_erasure.may_be_erased(world))):
            path = f"{SERVICE}/{method}"
            refusal = await world.refusal(path, refused, right_token(world, method_at(path), refused))
            assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "LEGAL_HOLD")
            assert refusal.metadata["hold"]
        assert await tier_erasure.forgotten(world, request) == 0
        by_key = erasure_pb2.CheckErasureRequest(tenant_id=str(world.tenant), subject="6" * 64, storage_keys=["k"])
        await world.call(f"{SERVICE}/CheckErasure", by_key)

    async def test_a_tenant_of_whom_something_was_not_replayed_is_refused_alone(self, world: World) -> None:
        request = await tier_erasure.replayed(world)
        request.unreplayed_tenant_ids.append(str(world.tenant))
        await world.call(f"{SERVICE}/MarkReplayed", request)
        status = await world.call(f"{SERVICE}/GetStatus", pb.GetStatusRequest())
        assert (status.restoring, status.unreplayed_tenants) == (False, 1)
        assert await tier_erasure.ready(world) == health_pb2.HealthCheckResponse.SERVING
        path = f"{SERVICE}/CountSubjectRows"
        counted = erasure_pb2.CountSubjectRowsRequest(tenant_id=str(world.tenant), address="ada@example.com")
        refusal = await world.refusal(path, counted, right_token(world, method_at(path), counted))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "RESTORE_NOT_REPLAYED")
        assert refusal.metadata["waits"] == "tenant"
        other = erasure_pb2.CountSubjectRowsRequest(tenant_id=str(uuid4()), address="ada@example.com")
        await world.call(path, other)
        erasing = await tier_erasure.erase(world)
        tier_erasure.check_erased(erasing, await world.call(f"{SERVICE}/EraseSubject", erasing))
        del request.unreplayed_tenant_ids[:]
        await world.call(f"{SERVICE}/MarkReplayed", request)
        await world.call(path, counted)

    async def test_a_restored_tier_serves_nobody_until_it_is_replayed(self, world: World) -> None:
        listed = await tier_erasure.holds(world)
        listed.page_size = 1
        token = (await world.call(f"{SERVICE}/ListLegalHolds", listed)).next_page_token
        life = (await world.call(f"{SERVICE}/MarkRestored", erasure_pb2.MarkRestoredRequest())).incarnation
        path = f"{SERVICE}/CountSubjectRows"
        counted = erasure_pb2.CountSubjectRowsRequest(tenant_id=str(world.tenant), address="ada@example.com")
        refusal = await world.refusal(path, counted, right_token(world, method_at(path), counted))
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "RESTORE_NOT_REPLAYED")
        assert "waits" not in refusal.metadata
        assert await tier_erasure.ready(world) == health_pb2.HealthCheckResponse.NOT_SERVING
        # The replay itself is let in, and ends holds that are back with the backup.
        assert len((await world.call(f"{SERVICE}/ListLegalHolds", listed)).holds) == 1
        replay = await tier_erasure.erase(world)
        replay.subject = "6" * 64
        tier_erasure.check_erased(replay, await world.call(f"{SERVICE}/EraseSubject", replay))
        path = f"{SERVICE}/MarkReplayed"
        other = erasure_pb2.MarkReplayedRequest(incarnation=str(uuid4()))
        refusal = await world.refusal(path, other, right_token(world, method_at(path), other))
        assert refusal.code == "FAILED_PRECONDITION"
        await world.call(path, erasure_pb2.MarkReplayedRequest(incarnation=life))
        assert await tier_erasure.ready(world) == health_pb2.HealthCheckResponse.SERVING
        assert len((await world.call(f"{SERVICE}/ListLegalHolds", listed)).holds) == 1
        # What pointed into the life before points nowhere.
        listed.page_token = token
        path = f"{SERVICE}/ListLegalHolds"
        refusal = await world.refusal(path, listed, right_token(world, method_at(path), listed))
        assert refusal.reason == "INVALID_PAGE_TOKEN"
