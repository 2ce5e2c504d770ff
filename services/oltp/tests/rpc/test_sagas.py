"""The journal of sagas: one owner at a time, what an earlier one says is refused, and whoever is stuck calls somebody."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from google.protobuf.duration_pb2 import Duration

from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin_chassis.clock import now
from penguin_chassis.pool import Database
from penguin_oltp.store import sagas
from penguin_orchestrator import keys
from penguin_testkit.calling import Refused, TierClient

LEASE = Duration(seconds=60)
RUNNING, STUCK = pb.SAGA_STATE_RUNNING, pb.SAGA_STATE_STUCK


class Book:
    """The journal as one owner calls it, about sagas of one kind that is this test's alone."""

    def __init__(self, oltp: TierClient) -> None:
        self._oltp, self._stub = oltp, SagaServiceStub(oltp.channel)
        self.kind = f"test.k{uuid4().hex}"

    async def __call__(self, method: str, request: Any) -> Any:
        return await self._oltp.call(getattr(self._stub, method), request)

    async def create(self, tenant: UUID, **fields: Any) -> pb.Saga:
        """Begin a saga."""
        usual: dict[str, Any] = {
            "tenant_id": str(tenant), "request_id": str(uuid4()), "saga_id": str(keys.new_id()), "kind": self.kind,
            "version": 1, "input": b"{}", "owner": "one", "lease_duration": LEASE,
        }  # fmt: skip
        saga: pb.Saga = (await self("CreateSaga", pb.CreateSagaRequest(**(usual | fields)))).saga
        return saga

    async def advance(self, saga: pb.Saga, state: Any, *changes: pb.SagaStepChange, **fields: Any) -> pb.Saga:
        """Say where it stands."""
        usual: dict[str, Any] = {
            "tenant_id": saga.tenant_id, "request_id": str(uuid4()), "saga_id": saga.id,
            "owner_epoch": saga.owner_epoch, "state": state, "changes": changes,
        }  # fmt: skip
        if "due_in" not in fields:
            usual["lease_duration"] = LEASE
        moved: pb.Saga = (await self("AdvanceSaga", pb.AdvanceSagaRequest(**(usual | fields)))).saga
        return moved

    async def claim(self, limit: int = 10, **fields: Any) -> list[pb.Saga]:
        """Take over what is due of this test's kind."""
        usual: dict[str, Any] = {"owner": "two", "definitions": [f"{self.kind}/1"]}
        request = pb.ClaimSagasRequest(max_sagas=limit, lease_duration=LEASE, **(usual | fields))
        return list((await self("ClaimSagas", request)).sagas)

    async def get(self, saga: pb.Saga) -> pb.Saga:
        """As it stands."""
        found: pb.Saga = (await self("GetSaga", pb.GetSagaRequest(tenant_id=saga.tenant_id, saga_id=saga.id))).saga
        return found


@pytest.fixture
def book(oltp: TierClient) -> Book:
    return Book(oltp)


def change(step: str, state: Any, **fields: Any) -> pb.SagaStepChange:
    return pb.SagaStepChange(step=step, operation=pb.SAGA_OPERATION_ACTION, state=state, **fields)


BEGUN, DONE = pb.SAGA_STEP_STATE_BEGUN, pb.SAGA_STEP_STATE_DONE


async def reason(work: Any) -> str:
    """Why it is refused."""
    with pytest.raises(Refused) as refused:
        await work
    return refused.value.answer.reason


async def test_who_has_lost_a_saga_moves_nothing(book: Book) -> None:
    saga = await book.create(uuid4())
    await book.advance(saga, RUNNING, change("first", BEGUN), due_in=Duration())
    (taken,) = await book.claim()
    assert (taken.owner, taken.owner_epoch) == ("two", 2)
    before = await book.get(saga)
    assert await reason(book.advance(saga, RUNNING, change("first", DONE))) == "SAGA_OWNER_LOST"
    assert await reason(book.advance(saga, pb.SAGA_STATE_SUCCEEDED)) == "SAGA_OWNER_LOST"
    assert await book.get(saga) == before
    await book.advance(taken, pb.SAGA_STATE_SUCCEEDED, change("first", DONE, result=b'{"n":1}'))
    assert await reason(book.advance(taken, RUNNING)) == "SAGA_OWNER_LOST", "it is finished, and nobody's"
    ended = await book.get(saga)
    assert (ended.state, ended.owner, ended.HasField("finished_at")) == (pb.SAGA_STATE_SUCCEEDED, "", True)
    assert [(s.state, s.result) for s in ended.steps] == [(DONE, b'{"n":1}')]


async def test_what_is_being_undone_is_never_gone_on_with(book: Book) -> None:
    saga = await book.create(uuid4())
    assert await reason(book.advance(saga, pb.SAGA_STATE_COMPENSATED)) == "STATE_CONFLICT"
    await book.advance(saga, pb.SAGA_STATE_COMPENSATING)
    for state in (RUNNING, pb.SAGA_STATE_SUCCEEDED):
        assert await reason(book.advance(saga, state)) == "STATE_CONFLICT"
    await book.advance(saga, STUCK)
    retried = await book("RetrySaga", pb.RetrySagaRequest(
        tenant_id=saga.tenant_id, request_id=str(uuid4()), saga_id=saga.id, reason="x"))  # fmt: skip
    assert retried.saga.state == pb.SAGA_STATE_COMPENSATING


@pytest.mark.parametrize("undoing", [False, True], ids=["forward", "undoing"])
async def test_what_is_given_up_says_why_is_finished_and_calls_nobody(book: Book, db: Database, undoing: bool) -> None:
    tenant = uuid4()
    saga = await book.create(tenant, subject="c")
    if undoing:
        await book.advance(saga, pb.SAGA_STATE_COMPENSATING, change("first", BEGUN))
    assert await reason(book.advance(saga, pb.SAGA_STATE_ABANDONED)) == "INVALID_FIELD", "nobody would know why"
    why = "content FAILED_PRECONDITION TENANT_CLOSED"
    await book.advance(saga, pb.SAGA_STATE_ABANDONED, change("first", DONE), last_error=why)
    ended = await book.get(saga)
    assert (ended.state, ended.last_error, ended.owner) == (pb.SAGA_STATE_ABANDONED, why, "")
    assert ended.HasField("finished_at")
    assert await book.claim() == []
    retry = pb.RetrySagaRequest(tenant_id=str(tenant), request_id=str(uuid4()), saga_id=saga.id, reason="x")
    assert await reason(book("RetrySaga", retry)) == "STATE_CONFLICT"
    async with db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM outbox WHERE tenant_id = $1", tenant) == 0
    # It stands in nobody's way.
    assert (await book.create(tenant, subject="c")).id != saga.id


async def test_a_done_step_stays_done_and_keeps_its_keys(book: Book) -> None:
    saga = await book.create(uuid4())
    await book.advance(saga, RUNNING, change("first", BEGUN, keys=b'{"key":"k"}', attempts=1))
    await book.advance(saga, RUNNING, change("first", DONE, attempts=2))
    await book.advance(saga, RUNNING, change("first", BEGUN, attempts=3))
    (step,) = (await book.get(saga)).steps
    assert (step.state, step.keys, step.attempts) == (DONE, b'{"key":"k"}', 3)


async def test_rounds_are_counted_since_a_step_ended_or_came_further(book: Book) -> None:
    saga = await book.create(uuid4())
    rounds: list[int] = []
    for told in (
        change("first", BEGUN), change("first", BEGUN), change("first", BEGUN, result=b'{"line":1}'),
        change("first", BEGUN, result=b'{"line":1}'), change("first", DONE, result=b'{"line":2}'),
        change("second", BEGUN),
    ):  # fmt: skip
        await book.advance(saga, RUNNING, told, due_in=Duration())
        rounds.append((await book.get(saga)).attempts)
        (saga,) = await book.claim()
    assert rounds == [1, 2, 1, 2, 1, 2]


async def test_no_two_unfinished_sagas_of_a_kind_are_about_the_same(book: Book) -> None:
    tenant = uuid4()
    begun = await asyncio.gather(*(book.create(tenant, subject="c", owner=f"o{n}") for n in range(8)))
    assert len({saga.id for saga in begun}) == 1
    first = begun[0]
    assert (await book.create(uuid4(), subject="c")).id != first.id, "another tenant's subject is another"
    await book.advance(first, pb.SAGA_STATE_SUCCEEDED)
    assert (await book.create(tenant, subject="c")).id != first.id
    # By its id it is the same saga for good, if it is asked for the same.
    known = {"saga_id": first.id, "subject": "c"}
    assert (await book.create(tenant, **known)).state == pb.SAGA_STATE_SUCCEEDED
    assert await reason(book.create(tenant, **known, input=b'{"other":1}')) == "ALREADY_EXISTS"


async def test_claims_of_several_take_each_saga_once_and_tenants_in_turn(book: Book) -> None:
    noisy, quiet = uuid4(), uuid4()
    for tenant, count in ((noisy, 12), (quiet, 1)):
        for _ in range(count):
            await book.advance(await book.create(tenant), RUNNING, due_in=Duration())
    claims = await asyncio.gather(*(book.claim(4, owner=f"c{n}") for n in range(3)))
    taken = [saga.id for claim in claims for saga in claim]
    assert len(taken) == len(set(taken))
    first = next(claim for claim in claims if any(saga.tenant_id == str(quiet) for saga in claim))
    assert len(first) <= 4, "the quiet tenant's one was among the first few"
    assert await book.claim(definitions=["another.kind/1"]) == []


async def test_who_claims_gets_no_more_of_one_tenant_than_its_part(book: Book) -> None:
    noisy, quiet = uuid4(), uuid4()
    due = {}
    for tenant, count in ((noisy, 5), (quiet, 2)):
        due[str(tenant)] = [await book.create(tenant) for _ in range(count)]
        for saga in due[str(tenant)]:
            await book.advance(saga, RUNNING, due_in=Duration())

    async def claimed(**fields: Any) -> dict[str, int]:
        taken = [saga.tenant_id for saga in await book.claim(**fields)]
        return {tenant: taken.count(tenant) for tenant in set(taken)}

    assert await claimed(max_per_tenant=1) == {str(noisy): 1, str(quiet): 1}
    assert await claimed(max_per_tenant=1) == {}, "what it has is counted"
    assert await claimed(max_per_tenant=1, definitions=["another.kind/1"]) == {}
    assert await claimed(max_per_tenant=2) == {str(noisy): 1, str(quiet): 1}
    assert await claimed(max_per_tenant=3, owner="another") == {str(noisy): 3}, "another's are not"
    # What it gave back, or has ended, counts no more.
    await book.advance(await book.get(due[str(quiet)][0]), RUNNING, due_in=Duration())
    assert await claimed(max_per_tenant=2) == {str(quiet): 1}


async def test_what_nobody_asked_for_is_left_alone_and_named(book: Book) -> None:
    saga = await book.create(uuid4(), version=7)
    await book.advance(saga, RUNNING, due_in=Duration())
    request = pb.ClaimSagasRequest(
        max_sagas=100, owner="two", lease_duration=LEASE, definitions=[f"{book.kind}/1", f"{book.kind}/8"]
    )
    reply = await book("ClaimSagas", request)
    assert saga.id not in {each.id for each in reply.sagas}
    assert f"{book.kind}/7" in reply.passed_over
    one = pb.ClaimSagasRequest(
        max_sagas=1, owner="two", lease_duration=LEASE, tenant_id=saga.tenant_id, saga_id=saga.id
    )
    assert [each.id for each in (await book("ClaimSagas", one)).sagas] == [saga.id]
    assert list((await book("ClaimSagas", one)).sagas) == [], "it has an owner now"


async def test_a_stuck_saga_owes_one_event_and_is_nobodys(book: Book, db: Database) -> None:
    tenant = uuid4()
    saga = await book.create(tenant)
    request_id = str(uuid4())
    for _ in range(2):
        await book.advance(saga, STUCK, change("first", BEGUN), last_error="queue NOT_FOUND", request_id=request_id)
    async with db.tenant(tenant) as connection:
        (row,) = await connection.fetch("SELECT destination, kind, payload FROM outbox WHERE tenant_id = $1", tenant)
    (event,) = orjson.loads(row["payload"])["events"]
    assert (row["destination"], row["kind"]) == ("notifications", "create_admin_events")
    assert (event["event_type"], event["dedupe_key"]) == ("saga.stuck", f"saga:{saga.id}")
    assert event["details"]["error"] == "queue NOT_FOUND"
    assert await book.claim() == []


async def test_only_a_stuck_saga_skips_and_an_old_one_is_not_retried(book: Book, db: Database) -> None:
    tenant = uuid4()
    saga = await book.create(tenant)
    named = {"tenant_id": str(tenant), "saga_id": saga.id, "reason": "x"}

    def skip(step: str = "first") -> pb.SkipSagaStepRequest:
        return pb.SkipSagaStepRequest(**named, request_id=str(uuid4()), step=step, operation=pb.SAGA_OPERATION_ACTION)

    def retry() -> pb.RetrySagaRequest:
        return pb.RetrySagaRequest(**named, request_id=str(uuid4()))

    assert await reason(book("SkipSagaStep", skip())) == "STATE_CONFLICT"
    assert await reason(book("RetrySaga", retry())) == "STATE_CONFLICT", "it is being carried out"
    await book.advance(saga, STUCK, change("first", DONE), change("second", BEGUN))
    assert await reason(book("SkipSagaStep", skip())) == "INVALID_FIELD", "the step is done"
    assert await reason(book("SkipSagaStep", skip("secnd"))) == "INVALID_FIELD", "there is no such step"
    undone = skip("second")
    undone.operation = pb.SAGA_OPERATION_COMPENSATION
    assert await reason(book("SkipSagaStep", undone)) == "STATE_CONFLICT", "the saga would be undone"
    skipped = await book("SkipSagaStep", skip("second"))
    assert {(s.step, s.state) for s in skipped.saga.steps} == {("first", DONE), ("second", pb.SAGA_STEP_STATE_SKIPPED)}
    assert await reason(book.advance(saga, RUNNING)) == "SAGA_OWNER_LOST", "who was its owner is so no more"
    (taken,) = await book.claim()
    await book.advance(taken, STUCK)
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "UPDATE sagas SET created_at = created_at - interval '151 days' WHERE tenant_id = $1", tenant
        )
    assert await reason(book("RetrySaga", retry())) == "STATE_CONFLICT", "the tiers may have forgotten its steps"


async def test_of_a_saga_that_is_being_undone_compensations_are_skipped(book: Book) -> None:
    tenant = uuid4()
    saga = await book.create(tenant)
    await book.advance(saga, pb.SAGA_STATE_COMPENSATING, change("first", DONE))
    await book.advance(saga, STUCK)

    async def skip(step: str, operation: Any) -> Any:
        return await book("SkipSagaStep", pb.SkipSagaStepRequest(
            tenant_id=str(tenant), saga_id=saga.id, reason="x", request_id=str(uuid4()), step=step, operation=operation,
        ))  # fmt: skip

    assert await reason(skip("first", pb.SAGA_OPERATION_ACTION)) == "STATE_CONFLICT"
    assert await reason(skip("second", pb.SAGA_OPERATION_COMPENSATION)) == "INVALID_FIELD", "it was never done"
    skipped = await skip("first", pb.SAGA_OPERATION_COMPENSATION)
    assert skipped.saga.state == pb.SAGA_STATE_COMPENSATING
    assert [s.state for s in skipped.saga.steps if s.operation == pb.SAGA_OPERATION_COMPENSATION] == [
        pb.SAGA_STEP_STATE_SKIPPED
    ]


async def test_finished_sagas_are_forgotten_in_time_and_others_never(book: Book, db: Database) -> None:
    tenant = uuid4()
    done, open_ = await book.create(tenant), await book.create(tenant)
    await book.advance(done, pb.SAGA_STATE_SUCCEEDED, change("first", DONE))
    await sagas.forget(db, now() + sagas.RETENTION - sagas.RETENTION / 90)
    assert (await book.get(done)).state == pb.SAGA_STATE_SUCCEEDED
    async with db.tenant(tenant) as connection:
        await connection.execute(
            "UPDATE sagas SET created_at = created_at - interval '91 days',"
            " finished_at = finished_at - interval '91 days' WHERE tenant_id = $1", tenant,
        )  # fmt: skip
    await sagas.forget(db, now())
    assert await reason(book.get(done)) == "NOT_FOUND"
    assert (await book.get(open_)).state == RUNNING
    async with db.tenant(tenant) as connection:
        assert await connection.fetchval("SELECT count(*) FROM saga_steps WHERE tenant_id = $1", tenant) == 0


async def test_what_is_no_json_object_is_refused_by_its_field(book: Book) -> None:
    with pytest.raises(Refused) as refused:
        await book.create(uuid4(), input=b"[1]")
    assert refused.value.answer.fields == ["input"]
    saga = await book.create(uuid4())
    with pytest.raises(Refused) as refused:
        await book.advance(saga, RUNNING, change("a", BEGUN), change("b", BEGUN, result=b"no json"))
    assert refused.value.answer.fields == ["changes[1].result"]


async def test_the_platform_lists_over_tenants_and_by_what_it_looks_for(book: Book) -> None:
    first, second = await book.create(uuid4()), await book.create(uuid4())
    await book.advance(second, STUCK)

    async def listed(**fields: Any) -> list[str]:
        return [each.id for each in (await book("ListSagas", pb.ListSagasRequest(kind=book.kind, **fields))).sagas]

    assert await listed() == [first.id, second.id]
    assert await listed(state=STUCK) == [second.id]
    assert await listed(tenant_id=first.tenant_id) == [first.id]
    assert await listed(tenant_id=str(uuid4())) == []
