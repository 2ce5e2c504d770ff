"""A tenant is closed while a saga of it is under way: wherever that happens, the saga comes to an end by itself, says why, leaves
nothing lying about, and calls nobody. The points are generated from the definitions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from libs.orchestrator.tests.sagas.closings import CALLED, closings, ended, reopen
from libs.orchestrator.tests.sagas.scenarios import LEADS, SCENARIOS, Begun, World
from libs.orchestrator.tests.sagas.test_crash_points import DEFINITIONS, brisk
from libs.orchestrator.tests.sagas.test_engine import Script, carried, script, unknown
from libs.orchestrator.tests.stored import until

from penguin.queue.v1 import schedule_service_pb2 as schedule_pb
from penguin.queue.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from penguin_orchestrator import keys
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.sagas.carrying import SagaAbandonedError, Sagas, SagaUnfinishedError
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import ACTION, COMPENSATION, Definition, DefinitionError, Registry, Step
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.recovery import Recovery
from penguin_orchestrator.sagas.tenants import CLOSE

__all__ = ["brisk", "script"]

Check = Callable[[World, Begun], Awaitable[None]]


async def _no_tenant(world: World, begun: Begun) -> None:
    assert await world.count("oltp", begun.tenant, "SELECT count(*) FROM tenants WHERE tenant_id = $1") == 0


async def _running(world: World, begun: Begun) -> None:
    """The close was refused before it did anything."""
    (row,) = await world.rows("oltp", begun.tenant, "SELECT status FROM campaigns WHERE tenant_id = $1")
    assert row["status"] == "running"


async def _as_it_was(world: World, begun: Begun) -> None:
    await SCENARIOS["campaign.pause"].check(world, begun, False)


async def _stopped(world: World, begun: Begun) -> None:
    """Nobody is written to twice, and the campaign does not stay running: once the tenant is opened again it can be resumed."""
    campaign = UUID(begun.subject)
    emails = "SELECT lead_id FROM emails WHERE tenant_id = $1 AND campaign_id = $2"
    rows = await world.rows("oltp", begun.tenant, emails, campaign)
    assert len({row["lead_id"] for row in rows}) == len(rows) <= LEADS
    status = "SELECT status FROM campaigns WHERE tenant_id = $1 AND id = $2"
    assert [row["status"] for row in await world.rows("oltp", begun.tenant, status, campaign)] == ["paused"]


async def _file_gone(world: World, begun: Begun) -> None:
    """Rows that were made stay; the file, being people's data, does not."""
    made = "SELECT email FROM leads WHERE tenant_id = $1 AND list = $2"
    found = {row["email"] for row in await world.rows("oltp", begun.tenant, made, begun.input["list"])}
    assert {"old@example.com"} <= found <= {"old@example.com", "new@example.com"}
    stored = "SELECT count(*) FROM content_objects WHERE tenant_id = $1 AND storage_key = $2"
    assert await world.count("content", begun.tenant, stored, begun.input["key"]) == 0


# What stands of a saga that is given up, or undone in a closed tenant, where that is not what its scenario says.
OTHERWISE: dict[tuple[str, str], Check] = {
    ("tenant.onboard", "compensated"): _no_tenant,
    ("tenant.close", "compensated"): _running,
    ("campaign.pause", "abandoned"): _as_it_was,
    ("campaign.launch", "abandoned"): _stopped,
    ("campaign.resume", "abandoned"): _stopped,
    ("leads.import", "abandoned"): _file_gone,
}
# What has an end of its own in a closed tenant: it ends things, or changes nothing that is closed.
NEVER_GIVEN_UP = {"tenant.onboard", "tenant.close", "campaign.cancel", "subject.export"}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=[each.id for each in DEFINITIONS])
async def test_a_saga_of_a_closed_tenant_ends_by_itself(
    world: World, definition: Definition, record_property: Callable[[str, object], None]
) -> None:
    scenario, ends = SCENARIOS[definition.kind], Counter[str]()
    for closing in closings(definition):
        begun = await scenario.prepare(world)
        try:
            held = await ended(world, definition, begun, closing)
            otherwise = OTHERWISE.get((definition.kind, held.state))
            if otherwise is not None:
                await otherwise(world, begun)
            else:
                await scenario.check(world, begun, held.state == "succeeded")
        except Exception as error:
            raise AssertionError(f"closed {closing}") from error
        finally:
            await reopen(world, begun.tenant)
        ends[held.state] += 1
    record_property("figure", f"{definition.id} in a tenant that is closed: {dict(sorted(ends.items()))}")
    assert ends["succeeded"] > 0, "closed after its last step it has succeeded"
    assert (ends["abandoned"] > 0) == (definition.kind not in NEVER_GIVEN_UP)


async def test_a_schedule_that_is_put_while_its_tenant_is_being_closed_runs_no_more(world: World) -> None:
    begun = await SCENARIOS["tenant.close"].prepare(world)
    queue = world.tiers["queue"]
    jobs = next(step for step in CLOSE.steps if step.name == "jobs")

    async def act(deed: Deed) -> Mapping[str, Any] | None:
        result = await jobs.act(deed)
        late = schedule_pb.Schedule(name="late", cron="* * * * *", kind="some.kind", payload=b"{}")
        put = schedule_pb.PutScheduleRequest(tenant_id=str(begun.tenant), request_id=str(uuid4()), schedule=late)
        await queue.call(queue.stub(ScheduleServiceStub).PutSchedule, put)  # Queue is still open
        return result

    closing = replace(CLOSE, steps=tuple(replace(step, act=act) if step is jobs else step for step in CLOSE.steps))
    sagas = Sagas(world.tiers, Registry([closing]))
    held = await sagas.carry_out(CLOSE.kind, begun.tenant, begun.input, subject=begun.subject, saga_id=keys.new_id())
    assert held.state == "succeeded"
    (late,) = await world.rows(
        "queue", begun.tenant, "SELECT paused, next_at FROM schedules WHERE tenant_id = $1 AND name = 'late'"
    )
    assert (late["paused"], late["next_at"]) == (True, None)


def closed() -> TierError:
    return TierError("content", grpc.StatusCode.FAILED_PRECONDITION, "TENANT_CLOSED", "no")


async def test_what_cannot_be_undone_in_a_closed_tenant_keeps_nothing_else_from_being_undone(
    world: World, script: Script
) -> None:
    definition, tenant = script.definition("a", "b", "c", pivot="c"), uuid4()
    script.fails["c", ACTION] = [closed()]
    script.fails["b", COMPENSATION] = [closed()]
    with pytest.raises(SagaAbandonedError) as given_up:
        await carried(world, definition, tenant=tenant)
    assert script.did == [("a", ACTION), ("b", ACTION), ("c", COMPENSATION), ("a", COMPENSATION)]
    assert given_up.value.held.last_error == "content FAILED_PRECONDITION TENANT_CLOSED"
    assert await world.count("oltp", tenant, CALLED) == 0


def _tidied(script: Script) -> Definition:
    """Two steps side by side after the pivot, one after them, and one that takes away what they needed."""
    act = script.act()
    return Definition(
        f"test.k{uuid4().hex}", 1,
        (
            Step("a", "oltp", act, act, pivot=True),
            Step("b", "oltp", act, after=("a",)), Step("c", "oltp", act, after=("a",)),
            Step("d", "oltp", act, after=("b", "c")), Step("e", "oltp", act, tidies=True),
        ),
    )  # fmt: skip


async def test_what_is_given_up_is_tidied_once_nothing_of_it_is_under_way(world: World, script: Script) -> None:
    definition = _tidied(script)
    script.fails["b", ACTION] = [closed()]
    script.waits["c"] = asyncio.Event()
    carrying_on = asyncio.create_task(carried(world, definition))

    async def refused() -> bool:
        return "b" in script.seen and "c" in script.seen

    await until(refused)
    await asyncio.sleep(0.1)
    assert "e" not in script.seen, "it was tidied while a step was under way"
    script.waits["c"].set()
    with pytest.raises(SagaAbandonedError) as given_up:
        await carrying_on
    assert script.did == [("a", ACTION), ("c", ACTION), ("e", ACTION)]
    assert "d" not in script.seen
    assert isinstance(given_up.value.__cause__, TierError)


async def test_whoever_takes_over_what_was_given_up_ends_it_so(world: World, script: Script) -> None:
    definition, tenant = _tidied(script), uuid4()
    script.fails["b", ACTION] = [closed()]
    script.fails["c", ACTION] = [unknown()]
    with pytest.raises(SagaUnfinishedError) as unfinished:
        await carried(world, definition, patience_s=0.05, tenant=tenant)
    # The tenant is open again: what was refused stays so, and what is open is asked for no more.
    script.fails.clear()
    await world.rows("oltp", tenant, "UPDATE sagas SET due_at = now() WHERE tenant_id = $1")
    await Recovery(Engine(world.tiers, Registry([definition]))).turn()
    held = await Engine(world.tiers, Registry([definition])).journal.get(tenant, unfinished.value.held.id)
    assert (held.state, held.last_error) == ("abandoned", "content FAILED_PRECONDITION TENANT_CLOSED")
    assert script.did == [("a", ACTION), ("e", ACTION)]
    # Who asks for it by its id learns so.
    with pytest.raises(SagaAbandonedError):
        await Sagas(world.tiers, Registry([definition])).join(definition.kind, tenant, held.id)


def test_a_step_tidies_only_what_is_decided(script: Script) -> None:
    act = script.act()
    with pytest.raises(DefinitionError, match="may still be needed"):
        Definition("k", 1, (Step("a", "oltp", act, act, tidies=True), Step("b", "oltp", act, act, pivot=True)))
