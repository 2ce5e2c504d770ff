"""What an action of a saga was refused for is its answer for good, where its caller takes it so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from libs.chassis.tests.probe import Probe

from penguin.common.v1 import mutation_pb2
from penguin.oltp.v1 import email_service_pb2 as pb
from penguin_chassis import barrier, faults, subjects
from penguin_chassis.barrier import COMPENSATION, Step
from penguin_chassis.mutations import step_of
from penguin_chassis.pool import Database
from penguin_testkit.calling import Answer, Refused

KEPT = "SELECT count(*) FROM step_barrier WHERE tenant_id = $1 AND refused IS NOT NULL"
FOR_GOOD: list[Callable[[], Exception]] = [
    lambda: faults.FailedPrecondition("Not now.", metadata={"state": "draft"}),
    lambda: faults.NotFound("email", "x", field="email_id"),
    lambda: faults.AlreadyExists("Another has it.", field="emails"),
    lambda: faults.InvalidArgument("Not so.", field="emails", reason="INVALID_FIELD"),
    lambda: faults.InvalidArgument(
        "Not so.", violations=(faults.Violation("a.b", "rule", "is odd"), faults.Violation("c", "other", "is even"))
    ),
    lambda: faults.Unimplemented("Never."),
]
PASSING: list[Callable[[], Exception]] = [
    lambda: faults.Unavailable("Soon."),
    lambda: faults.Aborted("Read again."),
    lambda: faults.ResourceExhausted("Too many.", retry_after_s=0.1),
    lambda: faults.DeadlineExceeded(),
    lambda: asyncpg.DeadlockDetectedError(""),
    lambda: TimeoutError(),
    # A defect, which may be mended.
    lambda: asyncpg.UniqueViolationError("a secret"),
]


class Scene:
    """A tier whose method claims its step and then does what it is told."""

    def __init__(self, probe: Probe, db: Database, tenant: UUID) -> None:
        self.probe, self.db, self.tenant = probe, db, tenant
        self.does: Callable[[], Awaitable[None]] = _nothing
        self.carried_out = 0
        probe.running.state.of(db)
        probe.emails.create = self._create

    async def _create(self, request: pb.BatchCreateEmailsRequest, _: Any) -> pb.BatchCreateEmailsResponse:
        step = step_of(request, request.emails[0])
        async with self.db.tenant(self.tenant) as connection:
            if await barrier.claim(connection, step, str) is None:
                await self.does()
                await barrier.record(connection, step, "done", str)
                self.carried_out += 1
        return pb.BatchCreateEmailsResponse()

    def refuses(self, error: Callable[[], Exception]) -> None:
        """Refuse from now on."""

        async def refuse() -> None:
            raise error()

        self.does = refuse

    async def ask(self, request: pb.BatchCreateEmailsRequest) -> Answer | None:
        """Why it was refused; None where it was not."""
        try:
            await self.probe.client.call(self.probe.stub.BatchCreateEmails, request)
        except Refused as refused:
            return refused.answer
        return None

    async def kept(self) -> int:
        async with self.db.tenant(self.tenant) as connection:
            count: int = await connection.fetchval(KEPT, self.tenant)
            return count


async def _nothing() -> None:
    return None


@pytest.fixture
async def scene(probe: Probe, db: Database, tenant: UUID) -> Scene:
    return Scene(probe, db, tenant)


def action(tenant: UUID, *, stands: bool = True) -> pb.BatchCreateEmailsRequest:
    """A saga's step of its own."""
    request = pb.BatchCreateEmailsRequest(tenant_id=str(tenant))
    request.content_claim_by.GetCurrentTime()
    request.emails.add(
        id=str(uuid4()), request_id=str(uuid4()), recipient="ann@example.com", sender="bo@example.com",
        content_storage_key="key",
    )  # fmt: skip
    request.saga_step.saga_id, request.saga_step.step = str(uuid4()), "create"
    request.saga_step.operation = mutation_pb2.STEP_OPERATION_ACTION
    request.saga_step.refusal_stands = stands
    return request


def undoing(request: pb.BatchCreateEmailsRequest) -> Step:
    """Its compensation, as a store has it."""
    done = step_of(request, request.emails[0])
    return Step(done.tenant_id, done.key, b"undo", done.at, COMPENSATION)


@pytest.mark.parametrize("error", FOR_GOOD)
async def test_what_an_action_was_refused_for_stands(scene: Scene, error: Callable[[], Exception]) -> None:
    request = action(scene.tenant)
    scene.refuses(error)
    first = await scene.ask(request)
    assert first is not None
    scene.does = _nothing
    # It could be carried out by now.
    assert [await scene.ask(request) for _ in range(2)] == [first, first]
    # Whoever undoes it finds nothing to undo, and it stays refused.
    async with scene.db.tenant(scene.tenant) as connection:
        assert await barrier.claim(connection, undoing(request), str) is None
        assert await barrier.undone(connection, undoing(request), str) is None
    assert await scene.ask(request) == first
    assert (scene.carried_out, await scene.kept()) == (0, 1)
    # Another step is another.
    assert await scene.ask(action(scene.tenant)) is None


@pytest.mark.parametrize("error", PASSING)
async def test_what_may_be_otherwise_next_time_stands_for_nothing(scene: Scene, error: Callable[[], Exception]) -> None:
    request = action(scene.tenant)
    scene.refuses(error)
    assert await scene.ask(request) is not None
    scene.does = _nothing
    assert await scene.ask(request) is None
    assert (scene.carried_out, await scene.kept()) == (1, 0)


async def test_only_who_asks_for_it_has_refusals_kept(scene: Scene) -> None:
    saga, request = action(scene.tenant, stands=False), action(scene.tenant)
    request.ClearField("saga_step")
    for each in (saga, request):
        scene.refuses(FOR_GOOD[0])
        assert await scene.ask(each) is not None
        scene.does = _nothing
        assert await scene.ask(each) is None
    assert (scene.carried_out, await scene.kept()) == (2, 0)


async def forget(scene: Scene, address: str) -> dict[str, int]:
    """What an erasure of that person does to what steps were answered."""
    order = subjects.Order(scene.tenant, uuid4(), "subject", address, datetime.now(UTC))
    async with scene.db.tenant(scene.tenant) as connection:
        return (await subjects.forget_answers(connection, order, "")).counts


@pytest.mark.parametrize(
    "error",
    [
        lambda: faults.AlreadyExists("Another is ann@example.com already.", field="emails"),
        lambda: faults.FailedPrecondition("Not now.", metadata={"recipient": "Ann@Example.com"}),
        lambda: faults.InvalidArgument("No.", violations=(faults.Violation("a", "rule", "is not\nann@example.com's"),)),
    ],
    ids=["message", "metadata", "violation"],
)
async def test_a_refusal_that_names_who_is_erased_is_forgotten_and_its_step_stays_barred(
    scene: Scene, error: Callable[[], Exception]
) -> None:
    named, other = action(scene.tenant), action(scene.tenant)
    scene.refuses(error)
    assert await scene.ask(named) is not None
    scene.refuses(lambda: faults.FailedPrecondition("Not for joann@example.com."))
    kept = await scene.ask(other)
    assert kept is not None

    assert await forget(scene, "ann@example.com") == {"step_barrier": 1}
    assert await scene.kept() == 1, "it is barred, and says nothing more"
    scene.does = _nothing
    told = await scene.ask(named)
    assert told is not None
    assert told.reason == "SAGA_COMPENSATED"
    assert await scene.ask(other) == kept, "another's is told as before"
    assert scene.carried_out == 0
    assert await forget(scene, "ann@example.com") == {}


async def test_an_answer_that_names_who_is_erased_is_forgotten_too(scene: Scene) -> None:
    """Its row holds no refusal: what is looked for in both must be found in one."""
    request = action(scene.tenant)
    step = step_of(request, request.emails[0])
    async with scene.db.tenant(scene.tenant) as connection:
        assert await barrier.claim(connection, step, str) is None
        await barrier.record(connection, step, "ann@example.com", str)
    assert await forget(scene, "ann@example.com") == {"step_barrier": 1}
    told = await scene.ask(request)
    assert told is not None
    assert (told.reason, scene.carried_out) == ("SAGA_COMPENSATED", 0)


async def test_a_copy_that_is_carried_out_while_another_is_refused_is_the_answer(scene: Scene) -> None:
    request = action(scene.tenant)
    holding, waiting = asyncio.Event(), asyncio.Event()

    async def refuse_late() -> None:
        # The other is carried out once this one lets go of the step; then this one comes to keep what it was refused for.
        scene.does = _nothing
        holding.set()
        await waiting.wait()
        raise faults.FailedPrecondition("Not now.")

    scene.does = refuse_late
    final = scene.probe.running.state.refusals.final

    async def later(step: Step, error: Exception) -> Exception:
        assert await second is None
        return await final(step, error)

    scene.probe.running.state.refusals.final = later  # type: ignore[method-assign]
    first = asyncio.create_task(scene.ask(request))
    await holding.wait()
    second = asyncio.create_task(scene.ask(request))
    await asyncio.sleep(0.1)
    waiting.set()
    told = await first
    assert told is not None
    assert (told.code, told.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, 0.05)
    assert await scene.ask(request) is None
    assert (scene.carried_out, await scene.kept()) == (1, 0)


async def test_two_that_are_refused_at_once_are_told_the_same(scene: Scene) -> None:
    request, said = action(scene.tenant), iter(("draft", "cancelled"))
    scene.refuses(lambda: faults.FailedPrecondition("Not now.", metadata={"state": next(said)}))
    answers = await asyncio.gather(scene.ask(request), scene.ask(request))
    assert answers[0] == answers[1]
    assert answers[0] is not None
    assert await scene.ask(request) == answers[0]


async def test_a_refusal_that_cannot_be_kept_is_none(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    request = action(scene.tenant)
    scene.refuses(FOR_GOOD[0])

    async def away(*_: Any) -> Any:
        raise ConnectionRefusedError

    with monkeypatch.context() as patch:
        patch.setattr(barrier, "refuse", away)
        told = await scene.ask(request)
    assert told is not None
    assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "TIER_DB_DOWN")
    scene.does = _nothing
    assert await scene.ask(request) is None
    assert scene.carried_out == 1


async def test_what_is_known_already_is_told_and_kept_no_second_time(scene: Scene) -> None:
    request = action(scene.tenant)
    assert await scene.ask(request) is None
    scene.refuses(FOR_GOOD[0])
    assert await scene.ask(request) is None
    other = action(scene.tenant)
    other.saga_step.CopyFrom(request.saga_step)
    other.emails[0].subject = "Another"
    reused = await scene.ask(other)
    assert reused is not None
    assert (reused.reason, await scene.kept()) == ("REQUEST_ID_REUSED", 0)
    assert await scene.ask(request) is None
