"""Leads are imported, and something dies: each row stands once, each fault is told by its line. (100,000 rows:
`make bench-import`.)"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from libs.worker.tests.waiting import until
from tests import lead_imports
from tests.lead_imports import Stage

from penguin_devstack.stack import LocalStack
from penguin_orchestrator.platform import Penguin

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

ROWS = 20_000
FEW = 5_000
OUTAGE_S = 3.0


@pytest.fixture
async def here(stack: LocalStack, penguin: Penguin) -> AsyncIterator[Stage]:
    async with lead_imports.stage(stack, penguin) as stage:
        yield stage


async def test_killed_twice_and_resumed(here: Stage, tmp_path: Path) -> None:
    plan = lead_imports.planted(ROWS)
    played = await lead_imports.play(here, tmp_path / "leads.csv", plan, here.leases_end)
    print(f"\n{ROWS} rows, killed at {played.stood}: {', '.join(f'{each:.1f}' for each in played.seconds)} s at work")
    assert len(set(played.owners)) == len(lead_imports.KILLED_AT)


async def test_interrupted_and_resumed(here: Stage, tmp_path: Path) -> None:
    """Ctrl-C: the import is given back, and goes on without anybody's waiting for a lease."""
    plan, file = lead_imports.planted(ROWS), tmp_path / "leads.csv"
    file.write_bytes(plan.data)

    async def under_way() -> bool:
        return await here.count() > 0

    async with here.dammed(ROWS // 2):
        process = await lead_imports.command(here, str(file), "--list", lead_imports.AUDIENCE)
        await until(under_way, 60)
        process.send_signal(signal.SIGINT)
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130, said.decode()
    saga = await here.saga()
    assert saga is not None
    assert f"import {saga.id}" in said.decode()
    assert not saga.owner.startswith(f"{socket.gethostname()}-{process.pid}-"), "it was not given back"
    resumed = await lead_imports.command(here, "--resume", saga.id)
    said, _ = await asyncio.wait_for(resumed.communicate(), 60)
    assert lead_imports.told(said) == (len(plan.addresses), 0, len(plan.problems), plan.rows), said.decode()
    await lead_imports.check(here, plan)


@pytest.mark.parametrize("tier", ["oltp", "content"])
@pytest.mark.parametrize("what", ["process", "database"])
async def test_a_tier_is_away_meanwhile(here: Stage, tier: str, what: str) -> None:
    plan, begun = lead_imports.planted(FEW), asyncio.Event()
    work = asyncio.create_task(
        here.penguin.leads.import_file(here.tenant, plan.data, lead_imports.AUDIENCE, progress=lambda *_: begun.set())
    )
    async with asyncio.timeout(60):
        await begun.wait()
    assert not work.done(), "the import was over before the fault: nothing was shown"
    if what == "process":
        await here.stack.kill(tier)
    else:
        await here.stack.stop_database(tier, "immediate")
        try:
            await asyncio.sleep(OUTAGE_S)
        finally:
            await here.stack.start_database(tier)
    done = await work
    assert (done.created, done.existed, done.left_out) == (len(plan.addresses), 0, len(plan.problems))
    await lead_imports.check(here, plan)
