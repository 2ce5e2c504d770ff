"""What one tenant left behind, however much and however slow, holds up nobody else's recovery."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.sagas.scenarios import World
from libs.orchestrator.tests.stored import until

from penguin_orchestrator import keys
from penguin_orchestrator.blobs import File, put_file
from penguin_orchestrator.sagas import leads, recovery
from penguin_orchestrator.sagas.carrying import Sagas, SagaUnfinishedError
from penguin_orchestrator.sagas.deeds import Deed
from penguin_orchestrator.sagas.definition import Definition, Registry, Step
from penguin_orchestrator.sagas.engine import Engine
from penguin_orchestrator.sagas.recovery import IN_HAND, TENANTS, Recovery


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow one another quickly."""
    monkeypatch.setattr(recovery, "LOOK_S", 0.05)


class Slow:
    """A kind of sagas, of which those that are to hang are at work for as long as `enough` is not set."""

    def __init__(self) -> None:
        self.at_work: list[UUID] = []
        self.enough = asyncio.Event()
        self.definition = Definition(f"test.k{uuid4().hex}", 1, (Step("a", "oltp", self._act, pure=True, pivot=True),))

    async def _act(self, deed: Deed) -> None:
        self.at_work.append(deed.tenant_id)
        if deed.input["hangs"]:
            await self.enough.wait()


async def abandoned(engine: Engine, definition: Definition, tenant: UUID, **input_: object) -> UUID:
    """One that nobody carries, and that is due."""
    held, _ = await engine.journal.create(
        definition.kind, definition.version, tenant, input_, saga_id=keys.new_id(), subject=""
    )
    await engine.journal.advance(held, "running", [], due_in_s=0.0)
    return held.id


@contextlib.asynccontextmanager
async def recovering(engine: Engine) -> AsyncIterator[None]:
    task = asyncio.create_task(Recovery(engine).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(engine: Engine, tenant: UUID, saga_id: UUID) -> bool:
    return (await engine.journal.get(tenant, saga_id)).state == "succeeded"


async def test_one_tenants_many_leave_places_for_the_others(world: World) -> None:
    slow = Slow()
    noisy, quiet = uuid4(), uuid4()
    engine = Engine(world.tiers, Registry([slow.definition]))
    many = [await abandoned(engine, slow.definition, noisy, hangs=True) for _ in range(IN_HAND + 2)]
    async with recovering(engine):
        await until(lambda: _of(len(slow.at_work) == IN_HAND // TENANTS))
        one = await abandoned(engine, slow.definition, quiet, hangs=False)
        await until(lambda: ended(engine, quiet, one))
        assert slow.at_work.count(noisy) == IN_HAND // TENANTS
        # And with its own it goes on, place by place.
        slow.enough.set()
        await until(lambda: _all(engine, noisy, many), within_s=20)


async def test_sagas_that_wait_for_one_another_leave_places_for_other_kinds(world: World) -> None:
    slow, other = Slow(), Slow()
    gated = replace(slow.definition, places=2)
    engine = Engine(world.tiers, Registry([gated, other.definition]))
    tenants = [uuid4() for _ in range(IN_HAND + 2)]
    for tenant in tenants:
        await abandoned(engine, gated, tenant, hangs=True)
    async with recovering(engine):
        await until(lambda: _of(len(slow.at_work) == 2))
        one = await abandoned(engine, other.definition, tenants[0], hangs=False)
        await until(lambda: ended(engine, tenants[0], one))
        assert len(set(slow.at_work)) == 2, "and of these no tenant has both places"


async def test_abandoned_imports_hold_up_no_other_tenants_saga(world: World) -> None:
    """The file of one is being read, and the others wait for that."""
    other = Slow()
    noisy, quiet = uuid4(), uuid4()
    engine = Engine(world.tiers, Registry([leads.IMPORT, other.definition]))
    file = File("leads.csv", leads.CSV, b"email\nada@example.com\n")
    for n in range(IN_HAND):
        key = keys.storage_key()
        await put_file(world.tiers["content"], noisy, key, str(keys.new_id()), file, leads.FILE_KEPT)
        await abandoned(engine, leads.IMPORT, noisy, list=f"all {n}", key=key, columns={})
    async with leads._gate(), recovering(engine):
        await asyncio.sleep(0.3)
        one = await abandoned(engine, other.definition, quiet, hangs=False)
        await until(lambda: ended(engine, quiet, one))
    # Other tests recover imports too.
    await world.rows("oltp", noisy, "DELETE FROM sagas WHERE tenant_id = $1")


async def test_a_saga_of_a_version_that_is_not_known_is_waited_for_and_left_to_who_knows_it(world: World) -> None:
    slow, tenant = Slow(), uuid4()
    newer = Engine(world.tiers, Registry([replace(slow.definition, version=2)]))
    standing = await abandoned(newer, replace(slow.definition, version=2), tenant, hangs=False)
    before = (await newer.journal.get(tenant, standing)).epoch
    older = Sagas(world.tiers, Registry([slow.definition]))
    with pytest.raises(SagaUnfinishedError):
        await older.join(slow.definition.kind, tenant, standing, patience_s=0.2)
    # Nobody has it, and nobody is taken to have died of it.
    assert (await newer.journal.get(tenant, standing)).epoch == before
    async with recovering(newer):
        await until(lambda: ended(newer, tenant, standing))


async def _of(value: bool) -> bool:
    return value


async def _all(engine: Engine, tenant: UUID, saga_ids: list[UUID]) -> bool:
    return all([await ended(engine, tenant, each) for each in saga_ids])
