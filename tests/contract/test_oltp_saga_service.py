"""SagaService: every method, by its contract: the journal of acts that cross tiers."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from google.protobuf.duration_pb2 import Duration
from tests.contract.cases import Case, Listing, Mutation, Within, equal
from tests.contract.harness import ServiceContract
from tests.contract.wire import World

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin_orchestrator import keys

SERVICE = "penguin.oltp.v1.SagaService"
LEASE = Duration(seconds=60)
JOURNALED = "SELECT state, owner, owner_epoch, reason FROM sagas WHERE tenant_id = $1 ORDER BY id"


def kind_of(world: World) -> str:
    """A kind of this test alone: claims and lists span tenants."""
    return f"test.t{world.tenant.hex}"


def new_saga(world: World) -> pb.CreateSagaRequest:
    return pb.CreateSagaRequest(
        tenant_id=str(world.tenant), request_id=str(uuid4()), saga_id=str(keys.new_id()), kind=kind_of(world),
        version=1, input=b'{"n":1}', owner="contract", lease_duration=LEASE,
    )  # fmt: skip


async def created(world: World) -> pb.Saga:
    """A saga that this test owns."""
    reply = await world.call(f"{SERVICE}/CreateSaga", new_saga(world))
    saga: pb.Saga = reply.saga
    return saga


def advance_request(saga: pb.Saga, state: Any, **more: Any) -> pb.AdvanceSagaRequest:
    next_: dict[str, Any] = {} if "due_in" in more else {"lease_duration": LEASE}
    return pb.AdvanceSagaRequest(
        tenant_id=saga.tenant_id, request_id=str(uuid4()), saga_id=saga.id, owner_epoch=saga.owner_epoch, state=state,
        **next_, **more,
    )  # fmt: skip


def begun(step: str) -> pb.SagaStepChange:
    return pb.SagaStepChange(
        step=step, operation=pb.SAGA_OPERATION_ACTION, state=pb.SAGA_STEP_STATE_BEGUN, keys=b'{"key":"k"}', attempts=1
    )


async def stuck(world: World) -> pb.Saga:
    """A saga of which a step is begun and that goes no further."""
    saga = await created(world)
    request = advance_request(saga, pb.SAGA_STATE_STUCK, changes=[begun("first")], last_error="NOT_FOUND NOT_FOUND")
    await world.call(f"{SERVICE}/AdvanceSaga", request)
    return saga


async def seen(world: World, request: Any) -> Any:
    """The tenant's sagas and their steps, as they are stored."""
    async with (await world.database()).tenant(world.tenant) as connection:
        rows = await connection.fetch(JOURNALED, world.tenant)
        steps = await connection.fetch("SELECT step, state, reason FROM saga_steps WHERE tenant_id = $1", world.tenant)
    return [tuple(row) for row in rows], sorted(map(tuple, steps))


async def new(world: World) -> Any:
    return new_saga(world)


def check_created(request: Any, reply: Any) -> None:
    saga = reply.saga
    assert (saga.id, saga.kind, saga.version, saga.input) == (request.saga_id, request.kind, 1, request.input)
    assert (saga.state, saga.owner, saga.owner_epoch) == (pb.SAGA_STATE_RUNNING, "contract", 1)
    assert saga.owned_until.ToMicroseconds() - saga.created_at.ToMicroseconds() == 60_000_000
    assert not saga.steps


async def advance(world: World) -> Any:
    return advance_request(await created(world), pb.SAGA_STATE_RUNNING, changes=[begun("first"), begun("second")])


async def given_back(world: World) -> Any:
    """A claim of the one saga that was given back."""
    saga = await created(world)
    change = [begun("first")]
    request = advance_request(saga, pb.SAGA_STATE_RUNNING, changes=change, due_in=Duration(), last_error="UNAVAILABLE")
    await world.call(f"{SERVICE}/AdvanceSaga", request)
    return pb.ClaimSagasRequest(
        max_sagas=10, owner="another", lease_duration=LEASE, definitions=[f"{kind_of(world)}/1"]
    )


def check_claimed(request: Any, reply: Any) -> None:
    (saga,) = reply.sagas
    assert (saga.owner, saga.owner_epoch, saga.attempts, saga.last_error) == ("another", 2, 1, "UNAVAILABLE")
    assert [(step.step, step.state, step.keys) for step in saga.steps] == [
        ("first", pb.SAGA_STEP_STATE_BEGUN, b'{"key":"k"}')
    ]


async def get(world: World) -> Any:
    saga = await stuck(world)
    return pb.GetSagaRequest(tenant_id=saga.tenant_id, saga_id=saga.id)


def check_stuck(request: Any, reply: Any) -> None:
    assert (reply.saga.id, reply.saga.state) == (request.saga_id, pb.SAGA_STATE_STUCK)
    assert (reply.saga.owner, reply.saga.last_error) == ("", "NOT_FOUND NOT_FOUND")
    assert not reply.saga.HasField("due_at")
    assert [step.step for step in reply.saga.steps] == ["first"]


async def list_five(world: World) -> Any:
    for _ in range(5):
        await created(world)
    return pb.ListSagasRequest(kind=kind_of(world), tenant_id=str(world.tenant))


def check_list(request: Any, reply: Any) -> None:
    ids = [saga.id for saga in reply.sagas]
    assert len(ids) == 5
    assert ids == sorted(ids)
    assert {saga.kind for saga in reply.sagas} == {request.kind}


async def retry(world: World) -> Any:
    saga = await stuck(world)
    return pb.RetrySagaRequest(
        tenant_id=saga.tenant_id, request_id=str(uuid4()), saga_id=saga.id, reason="the tier is back"
    )


def check_retried(request: Any, reply: Any) -> None:
    assert (reply.saga.state, reply.saga.owner_epoch) == (pb.SAGA_STATE_RUNNING, 2)
    assert reply.saga.reason == request.reason
    assert reply.saga.actor
    assert reply.saga.HasField("due_at")


async def skip(world: World) -> Any:
    saga = await stuck(world)
    return pb.SkipSagaStepRequest(
        tenant_id=saga.tenant_id, request_id=str(uuid4()), saga_id=saga.id, step="first",
        operation=pb.SAGA_OPERATION_ACTION, reason="done by hand",
    )  # fmt: skip


def check_skipped(request: Any, reply: Any) -> None:
    (step,) = reply.saga.steps
    assert (step.state, step.reason) == (pb.SAGA_STEP_STATE_SKIPPED, request.reason)
    assert step.actor
    assert reply.saga.state == pb.SAGA_STATE_RUNNING


def none_left(first: Any, second: Any) -> None:
    assert (len(first.sagas), list(second.sagas)) == (1, [])


def unknown(request: Any) -> None:
    request.saga_id = str(uuid4())


class TestSagaService(ServiceContract):
    service = SERVICE
    tiers = ("oltp",)
    cases = (
        Case(
            "CreateSaga",
            new,
            check_created,
            ("kind", lambda r: setattr(r, "kind", "No Kind")),
            "it names nothing that could be absent: the tenant need not exist",
            mutation=Mutation(seen, vary=lambda r: setattr(r, "version", 2)),
        ),
        Case(
            "AdvanceSaga",
            advance,
            lambda request, reply: equal((reply.saga.id, reply.saga.owner_epoch), (request.saga_id, 1)),
            ("changes[0].step", lambda r: setattr(r.changes[0], "step", "No step")),
            unknown,
            mutation=Mutation(seen, vary=lambda r: setattr(r, "state", pb.SAGA_STATE_STUCK)),
        ),
        Case(
            "ClaimSagas",
            given_back,
            check_claimed,
            ("lease_duration", lambda r: r.ClearField("lease_duration")),
            Within(lambda r: r.definitions.__setitem__(0, "nobody/1"), lambda reply: equal(list(reply.sagas), [])),
            mutation=Mutation(seen, unkeyed="a saga that is claimed is not claimed again", repeats=none_left),
        ),
        Case("GetSaga", get, check_stuck, ("saga_id", lambda r: setattr(r, "saga_id", "x")), unknown),
        Case(
            "ListSagas",
            list_five,
            check_list,
            ("page_size", lambda r: setattr(r, "page_size", 1001)),
            "a list of nothing is empty",
            listing=Listing("sagas", 5, lambda r: setattr(r, "state", pb.SAGA_STATE_RUNNING)),
        ),
        Case(
            "RetrySaga",
            retry,
            check_retried,
            ("reason", lambda r: r.ClearField("reason")),
            unknown,
            mutation=Mutation(seen, vary=lambda r: setattr(r, "reason", "another")),
        ),
        Case(
            "SkipSagaStep",
            skip,
            check_skipped,
            ("operation", lambda r: r.ClearField("operation")),
            unknown,
            mutation=Mutation(seen, vary=lambda r: setattr(r, "reason", "another")),
        ),
    )
