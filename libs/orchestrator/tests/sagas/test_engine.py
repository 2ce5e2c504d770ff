"""The engine: unknown outcomes are asked again, refusals undone, owners lost let go, and what nobody can finish calls
somebody. Over the real journal; the steps are this test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from libs.orchestrator.tests.sagas.scenarios import SCENARIOS, World
from libs.orchestrator.tests.stored import until

from penguin.notifications.v1 import admin_event_service_pb2 as admin_pb
from penguin.notifications.v1.admin_event_service_pb2_grpc import AdminEventServiceStub
from penguin.oltp.v1 import campaign_service_pb2 as campaign_pb
from penguin.oltp.v1 import saga_service_pb2 as pb
from penguin.oltp.v1.campaign_service_pb2_grpc import CampaignServiceStub
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.relay import Relay
from penguin_orchestrator.sagas import carrying
from penguin_orchestrator.sagas import engine as engines
from penguin_orchestrator.sagas.carrying import Sagas, SagaStuckError, SagaUnfinishedError
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import ACTION, COMPENSATION, Definition, DefinitionError, Registry, Step
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.journal import Held, OwnerLostError, Record
from penguin_orchestrator.sagas.recovery import Recovery

Code = grpc.StatusCode
Did = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow one another quickly."""
    monkeypatch.setattr(engines, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(engines, "RETRY_MAX_S", 0.01)


class Script:
    """Steps that note what they do, and fail as they are told."""

    def __init__(self) -> None:
        self.did: Did = []
        self.fails: dict[tuple[str, str], list[Exception]] = {}
        self.waits: dict[str, asyncio.Event] = {}
        self.seen: dict[str, list[Mapping[str, Any]]] = {}
        # What comes of a step, where that matters.
        self.made: dict[str, Mapping[str, Any]] = {}

    def act(self) -> Callable[[Deed], Awaitable[Mapping[str, Any]]]:
        """A step's action, or its compensation."""

        async def act(deed: Deed) -> Mapping[str, Any]:
            failures = self.fails.get((deed.step, deed.operation), [])
            self.seen.setdefault(deed.step, []).append(dict(deed.keys))
            if failures:
                raise failures.pop(0) if len(failures) > 1 else failures[0]
            if deed.step in self.waits:
                deed.report(so_far=len(self.seen[deed.step]))
                await self.waits[deed.step].wait()
            self.did.append((deed.step, deed.operation))
            return self.made.get(deed.step, {"by": deed.step})

        return act

    def definition(self, *names: str, pivot: str, **after: tuple[str, ...]) -> Definition:
        """One of a kind of its own."""
        return Definition(
            f"test.k{uuid4().hex}", 1,
            tuple(
                Step(name, "oltp", self.act(), self.act(), after=after.get(name), pivot=name == pivot,
                     mints={"key": lambda: uuid4().hex})
                for name in names
            ),
        )  # fmt: skip


@pytest.fixture
def script() -> Script:
    return Script()


def refusal() -> TierError:
    return TierError("queue", Code.FAILED_PRECONDITION, "STATE_CONFLICT", "no")


def unknown() -> TierError:
    return TierError("queue", Code.UNAVAILABLE, "UNREACHABLE", "?")


async def carried(world: World, definition: Definition, *, patience_s: float = 5.0, tenant: UUID | None = None) -> Held:
    """Carry one out."""
    sagas = Sagas(world.tiers, Registry([definition]))
    return await sagas.carry_out(definition.kind, tenant or uuid4(), {}, patience_s=patience_s)


def test_steps_that_do_not_fit_together_are_no_definition(script: Script) -> None:
    act = script.act()
    with pytest.raises(DefinitionError, match="pivot"):
        Definition("k", 1, (Step("a", "oltp", act, act),))
    with pytest.raises(DefinitionError, match="cannot be undone"):
        Definition("k", 1, (Step("a", "oltp", act), Step("b", "oltp", act, act, pivot=True)))
    with pytest.raises(DefinitionError, match="neither before nor after"):
        Definition("k", 1, (Step("a", "oltp", act, act, pivot=True), Step("b", "oltp", act, act, after=())))
    with pytest.raises(DefinitionError, match="not before it"):
        Definition("k", 1, (Step("a", "oltp", act, act, after=("b",)), Step("b", "oltp", act, act, pivot=True)))


async def test_an_unknown_outcome_is_asked_again_with_the_same_keys(world: World, script: Script) -> None:
    definition = script.definition("a", "b", pivot="b")
    late = TierError("queue", Code.FAILED_PRECONDITION, "STEP_EXPIRED", "late")
    faster = TierError("queue", Code.ABORTED, "ETAG_MISMATCH", "changed")
    later = TierError("queue", Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA", "later")
    script.fails["b", ACTION] = [unknown(), late, faster, later]
    failing = asyncio.create_task(carried(world, definition))
    await until(lambda: _is(len(script.seen.get("b", [])) >= 6))
    script.fails.clear()
    held = await failing
    assert held.state == "succeeded"
    assert script.did == [("a", ACTION), ("b", ACTION)]
    assert len({tuple(keys.items()) for keys in script.seen["b"]}) == 1, "its keys were minted once"
    assert held.results["b"] == {"by": "b"}


async def _is(value: object) -> object:
    return value


async def test_a_refusal_undoes_what_was_begun_the_last_first(world: World, script: Script) -> None:
    definition = script.definition("a", "b", "c", "d", pivot="d")
    script.fails["d", ACTION] = [refusal()]
    script.fails["b", COMPENSATION] = [unknown()]
    undoing = asyncio.create_task(carried(world, definition))
    await until(lambda: _is(len(script.seen.get("b", [])) >= 5))
    script.fails["b", COMPENSATION] = []
    with pytest.raises(TierError) as refused:
        await undoing
    assert refused.value.reason == "STATE_CONFLICT"
    acts = [(name, ACTION) for name in "abc"]
    # What was refused is undone too: an earlier try of it may still be on its way.
    assert script.did == [*acts, *((name, COMPENSATION) for name in "dcba")]


async def test_a_tier_is_to_hold_by_a_refusal_that_is_taken_for_final(world: World, script: Script) -> None:
    definition = script.definition("a", "b", pivot="b")
    oltp, draft = world.tiers["oltp"], await SCENARIOS["campaign.launch"].prepare(world)
    named: dict[str, Any] = {"tenant_id": str(draft.tenant), "campaign_id": draft.subject}
    request = campaign_pb.PauseCampaignRequest(**named)

    async def pause(deed: Deed) -> Mapping[str, Any]:
        await deed.ask("oltp", CampaignServiceStub, "PauseCampaign", request)
        return {}

    steps = (definition.steps[0], Step("b", "oltp", pause, script.act(), pivot=True))
    with pytest.raises(TierError) as refused:
        await carried(world, Definition(definition.kind, 1, steps), tenant=draft.tenant)
    assert refused.value.reason == "STATE_CONFLICT"
    start = campaign_pb.StartCampaignRequest(**named, request_id=str(uuid4()))
    await oltp.call(oltp.stub(CampaignServiceStub).StartCampaign, start)
    # The compensation of this test lets nothing be known of the pause: a copy that was on its way is refused all the same.
    with pytest.raises(TierError) as late:
        await oltp.call(oltp.stub(CampaignServiceStub).PauseCampaign, request)
    assert (late.value.reason, late.value.message) == (refused.value.reason, refused.value.message)


async def test_what_must_be_done_is_refused_for_the_moment(world: World, script: Script) -> None:
    definition = script.definition("a", "b", "c", pivot="b")
    named: dict[tuple[str, str], bool] = {}

    async def act(deed: Deed) -> Mapping[str, Any]:
        request = campaign_pb.PauseCampaignRequest()
        deed._name(request)
        named[deed.step, deed.operation] = request.saga_step.refusal_stands
        return await script.act()(deed)

    steps = tuple(replace(step, act=act, undo=act) for step in definition.steps)
    await carried(world, replace(definition, steps=steps))
    script.fails["b", ACTION] = [refusal()]
    with pytest.raises(TierError):
        await carried(world, replace(definition, steps=steps))
    finals = {(name, operation) for (name, operation), stands in named.items() if stands}
    assert finals == {("a", ACTION), ("b", ACTION)}
    assert named.keys() - finals == {("c", ACTION), ("a", COMPENSATION), ("b", COMPENSATION)}


async def test_a_refusal_cuts_off_what_is_under_way_beside_it_and_undoes_it(world: World, script: Script) -> None:
    definition = script.definition("a", "b", "c", pivot="c", a=(), b=(), c=("a", "b"))
    script.waits["a"] = asyncio.Event()  # hangs for good
    script.fails["b", ACTION] = [refusal()]

    async def freed() -> bool:
        return ("b", COMPENSATION) in script.did

    carrying_on = asyncio.create_task(carried(world, definition))
    await until(freed)
    script.waits["a"].set()
    with pytest.raises(TierError):
        await carrying_on
    assert ("a", ACTION) not in script.did
    assert {("a", COMPENSATION), ("b", COMPENSATION)} == set(script.did)


async def test_past_the_pivot_a_refusal_is_stuck_and_calls_somebody_once(world: World, script: Script) -> None:
    definition, tenant = script.definition("a", "b", pivot="a"), uuid4()
    script.fails["b", ACTION] = [refusal()]
    await world.owe_nothing()
    with pytest.raises(SagaStuckError) as stuck:
        await carried(world, definition, tenant=tenant)
    held = stuck.value.held
    assert held.records["b", ACTION].attempts == engines.REFUSALS
    relay = Relay(world.tiers["oltp"], world.tiers, 1000)
    await relay.turn()
    notifications = world.tiers["notifications"]
    listed = await notifications.call(
        notifications.stub(AdminEventServiceStub).ListAdminEvents,
        admin_pb.ListAdminEventsRequest(tenant_id=str(tenant)),
    )
    (event,) = listed.admin_events
    assert (event.event_type, event.dedupe_key) == ("saga.stuck", f"saga:{held.id}")
    assert event.details["kind"] == definition.kind
    # Somebody mends it, and says so: whoever recovers goes on where it stood.
    script.fails.clear()
    oltp = world.tiers["oltp"]
    retry = pb.RetrySagaRequest(tenant_id=str(tenant), saga_id=str(held.id), request_id=str(uuid4()), reason="mended")
    await oltp.call(oltp.stub(SagaServiceStub).RetrySaga, retry)
    await Recovery(Engine(world.tiers, Registry([definition]))).turn()
    assert (await Engine(world.tiers, Registry([definition])).journal.get(tenant, held.id)).state == "succeeded"
    assert script.did == [("a", ACTION), ("b", ACTION)]


async def test_a_defect_is_neither_read_as_a_refusal_nor_retried_for_ever(world: World, script: Script) -> None:
    definition = script.definition("a", "b", pivot="b")
    script.fails["b", ACTION] = [KeyError("secret")]
    with pytest.raises(SagaStuckError) as stuck:
        await carried(world, definition)
    assert stuck.value.held.last_error == "KeyError"
    assert ("a", COMPENSATION) not in script.did


async def test_what_the_journal_refuses_to_note_is_stuck_and_not_done_for_ever(world: World, script: Script) -> None:
    definition, tenant = script.definition("a", "b", pivot="b"), uuid4()
    await world.owe_nothing()
    script.made["a"] = {"much": "x" * 65_536}
    with pytest.raises(SagaStuckError) as stuck:
        await carried(world, definition, tenant=tenant)
    held = stuck.value.held
    assert held.last_error == "oltp INVALID_ARGUMENT INVALID_FIELD"
    assert (await Engine(world.tiers, Registry([definition])).journal.get(tenant, held.id)).state == "stuck"
    (owed,) = await world.rows("oltp", tenant, "SELECT kind FROM outbox WHERE tenant_id = $1")
    assert owed["kind"] == "create_admin_events"
    assert script.did == [("a", ACTION)]


async def test_a_saga_that_ends_whoever_carries_it_is_stuck_after_so_many(world: World, script: Script) -> None:
    definition, tenant = script.definition("a", "b", pivot="a"), uuid4()
    await world.owe_nothing()
    journal = Engine(world.tiers, Registry([definition])).journal
    held, _ = await journal.create(definition.kind, 1, tenant, {}, saga_id=keys.new_id(), subject="")
    lease_ends = "UPDATE sagas SET due_at = now() - interval '1 s' WHERE tenant_id = $1 AND due_at IS NOT NULL"

    async def taken_over(times: int) -> Held:
        """What the last of so many owners has, none of whom says a word."""
        taken: Held | None = held
        for n in range(times):
            await world.rows("oltp", tenant, lease_ends)
            # By whoever waits for it and by whoever recovers alike.
            taken = await journal.claim_one(held) if n % 2 else (await journal.claim(1, [definition.id]))[0][0]
        assert taken is not None
        return taken

    last = await taken_over(20)
    # To be under way is to come no further; what comes further, or ends, is not what ends them: they are counted anew.
    await journal.advance(last, "running", [Record("a", ACTION, attempts=1)])
    assert (await _takeovers(world, tenant)) == 20
    await journal.advance(last, "running", [Record("a", ACTION, result={"line": 7})])
    assert (await _takeovers(world, tenant)) == 0
    last = await taken_over(20)
    await journal.advance(last, "running", [Record("a", ACTION, "done")])
    await taken_over(20)
    for claim in (journal.claim_one(held), journal.claim(1, [definition.id])):
        await world.rows("oltp", tenant, lease_ends)
        assert await claim in (None, ([], []))
    stuck = await journal.get(tenant, held.id)
    assert (stuck.state, stuck.owner, stuck.last_error) == ("stuck", "", "OWNERS_LOST")
    (owed,) = await world.rows("oltp", tenant, "SELECT kind FROM outbox WHERE tenant_id = $1")
    assert owed["kind"] == "create_admin_events", "one event"
    # Once it is mended it goes on, and is counted anew.
    oltp = world.tiers["oltp"]
    retry = pb.RetrySagaRequest(tenant_id=str(tenant), saga_id=str(held.id), request_id=str(uuid4()), reason="mended")
    await oltp.call(oltp.stub(SagaServiceStub).RetrySaga, retry)
    await Recovery(Engine(world.tiers, Registry([definition]))).turn()
    assert script.did == [("b", ACTION)]


async def _takeovers(world: World, tenant: UUID) -> int:
    return await world.count("oltp", tenant, "SELECT takeovers FROM sagas WHERE tenant_id = $1")


async def test_a_long_step_keeps_its_saga_and_lets_go_once_it_is_lost(
    world: World, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HEARTBEAT_S", 0.05)
    definition, tenant = script.definition("a", pivot="a"), uuid4()
    script.waits["a"] = asyncio.Event()
    engine = Engine(world.tiers, Registry([definition]))
    held, ours = await engine.journal.create(definition.kind, 1, tenant, {}, saga_id=keys.new_id(), subject="")
    assert ours
    running = asyncio.create_task(engine.run(held, patience_s=5.0))

    async def reported() -> bool:
        record = (await engine.journal.get(tenant, held.id)).records.get(("a", ACTION))
        return record is not None and record.result == {"so_far": 1}

    await until(reported)
    # Another process takes it over, as it does when this one has been silent for too long.
    await world.rows("oltp", tenant, "UPDATE sagas SET owner_epoch = owner_epoch + 1 WHERE tenant_id = $1")
    with pytest.raises(OwnerLostError):
        await running
    assert script.did == [], "the step was cut off"


async def test_who_asks_for_what_is_being_done_waits_for_it(world: World, script: Script) -> None:
    definition, tenant = script.definition("a", pivot="a"), uuid4()
    script.waits["a"] = asyncio.Event()
    sagas = [Sagas(world.tiers, Registry([definition])) for _ in range(3)]
    asked = [asyncio.create_task(each.carry_out(definition.kind, tenant, {}, subject="one")) for each in sagas]
    await until(lambda: _is("a" in script.seen))
    await asyncio.sleep(0.1)
    script.waits["a"].set()
    ended = await asyncio.gather(*asked)
    assert {held.state for held in ended} == {"succeeded"}
    assert len({held.id for held in ended}) == 1
    assert script.did == [("a", ACTION)]


async def test_who_asks_again_takes_over_what_nobody_carries(
    world: World, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "LOOK_MAX_S", 0.1)
    definition, tenant = script.definition("a", pivot="a"), uuid4()
    script.fails["a", ACTION] = [unknown()]
    sagas = Sagas(world.tiers, Registry([definition]))
    with pytest.raises(SagaUnfinishedError):
        await sagas.carry_out(definition.kind, tenant, {}, subject="one", patience_s=0.05)
    script.fails.clear()
    held = await sagas.carry_out(definition.kind, tenant, {}, subject="one")
    assert (held.state, script.did) == ("succeeded", [("a", ACTION)])


async def test_recoveries_side_by_side_carry_each_saga_once_and_leave_unknown_ones_alone(
    world: World, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    definition = script.definition("a", "b", pivot="a")
    newer = Definition(definition.kind, 2, definition.steps)
    journal = Engine(world.tiers, Registry([definition])).journal
    tenants = [uuid4() for _ in range(6)]
    sagas: dict[UUID, UUID] = {}
    for n, tenant in enumerate(tenants):
        held, _ = await journal.create(
            definition.kind, 2 if n == 5 else 1, tenant, {}, saga_id=keys.new_id(), subject=""
        )
        await journal.advance(held, "running", [], due_in_s=0.0)
        sagas[tenant] = held.id
    recoveries = [Recovery(Engine(world.tiers, Registry([definition]))) for _ in range(3)]
    assert sum(await asyncio.gather(*(each.turn() for each in recoveries))) == 5
    for _ in range(2):
        await recoveries[0].turn()
    assert sorted(script.did) == sorted([("a", ACTION), ("b", ACTION)] * 5)
    told = [record for record in caplog.records if newer.id in record.getMessage()]
    assert 1 <= len(told) <= len(recoveries), "each says once that it does not know it"
    # A process that knows the newer version finishes it, and the older ones alike.
    assert await Recovery(Engine(world.tiers, Registry([definition, newer]))).turn() == 1
    assert (await journal.get(tenants[5], sagas[tenants[5]])).state == "succeeded"


async def test_a_process_that_is_told_to_end_gives_back_what_it_had(world: World, script: Script) -> None:
    definition, tenant = script.definition("a", pivot="a"), uuid4()
    script.waits["a"] = asyncio.Event()
    ending = asyncio.create_task(carried(world, definition, tenant=tenant))
    await until(lambda: _is("a" in script.seen))
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    script.waits["a"].set()
    assert await Recovery(Engine(world.tiers, Registry([definition]))).turn() == 1, (
        "not only when its lease has run out"
    )
    assert script.did == [("a", ACTION)]
