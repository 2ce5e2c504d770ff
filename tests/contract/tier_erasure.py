"""What TierService promises of people: erasing and exporting them, the holds that forbid it, and the life after a restore."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.contract.cases import Case, Listing, Mutation, equal
from tests.contract.tiers import TIERS
from tests.contract.wire import World

from penguin.tier.v1 import erasure_pb2
from penguin.tier.v1 import tier_service_pb2 as pb

SERVICE = "penguin.tier.v1.TierService"
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


async def count(world: World) -> Any:
    return erasure_pb2.CountSubjectRowsRequest(tenant_id=str(world.tenant), address=ADDRESS)


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


async def told(world: World) -> Any:
    """Of a record that it was not told of."""
    newest = erasure_pb2.LedgerMark(sequence=await noted(world, None) + 1, head="7" * 64)
    return erasure_pb2.NoteLedgerRequest(ledger=newest)


async def noted(world: World, request: Any) -> Any:
    async with (await world.database()).tenant(world.tenant) as connection:
        return await connection.fetchval("SELECT ledger_sequence FROM incarnation")


async def let_in(world: World) -> None:
    """Other tests need the tier to serve."""
    status = await world.call(f"{SERVICE}/GetStatus", pb.GetStatusRequest())
    if status.restoring:
        request = erasure_pb2.MarkReplayedRequest(incarnation=status.incarnation)
        await world.call(f"{SERVICE}/MarkReplayed", request)


async def ready(world: World) -> Any:
    request = health_pb2.HealthCheckRequest(service="readiness")
    return (await health_pb2_grpc.HealthStub(world.tier.channel).Check(request, timeout=5)).status


CASES = (
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
        "CountSubjectRows",
        count,
        lambda request, reply: equal(dict(reply.counts), {}),
        ("address", lambda r: setattr(r, "address", "x")),
        "of a person that is not known there is nothing to count",
        stranger=lambda reply: equal(dict(reply.counts), {}),
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
        "NoteLedger",
        told,
        lambda request, reply: equal((reply.ledger, reply.restoring), (request.ledger, False)),
        ("ledger.head", lambda r: setattr(r.ledger, "head", "7")),
        "every tier can be told",
        mutation=Mutation(noted, unkeyed="what it was told stays"),
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
