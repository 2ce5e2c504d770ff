"""A campaign is running, and something dies: after it is back every email has been delivered exactly once, with no
content left over and nobody's help. The receiving server never deduplicates."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import pytest
from tests import scenes

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.platform import Penguin

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

SIZE = 400
OUTAGE_S = 2.0
TIERS = ("oltp", "content", "queue", "olap", "notifications")
# `penguin`, whose sagas are another's sooner after its last word: how long that is, is the owner's to say (seconds).
SHORT_LEASED = """
from penguin_orchestrator.sagas import journal
journal.LEASE_S = 8.0
from penguin_cli.__main__ import main
main()
"""


async def play(stack: LocalStack, penguin: Penguin, fault: Callable[[], Awaitable[None]]) -> scenes.Scene:
    """Launch, break something in the midst of it, and wait until everything is sent."""
    scene = await scenes.campaign(penguin, SIZE)
    begun = asyncio.Event()
    launch = asyncio.create_task(penguin.campaigns.launch(scene.tenant, scene.campaign, progress=lambda _: begun.set()))
    async with asyncio.timeout(60):
        await begun.wait()
    assert not launch.done(), "the launch was over before the fault: nothing was shown"
    await fault()
    launched = await launch
    assert (launched.created, launched.refused) == (SIZE, 0)
    return scene


async def check_exactly_once(stack: LocalStack, penguin: Penguin, scene: scenes.Scene) -> None:
    counts = await scenes.settled(penguin, scene, wait_s=90)
    assert counts == {"SENT": SIZE}
    assert scenes.received(stack, scene) == dict.fromkeys(scene.recipients, 1)
    assert await scenes.unclaimed(penguin, scene) == []
    assert await scenes.strays(penguin, scene) == set()


@pytest.mark.parametrize("component", [*TIERS, "relay"])
async def test_a_process_is_killed(stack: LocalStack, penguin: Penguin, component: str) -> None:
    scene = await play(stack, penguin, lambda: stack.kill(component))
    await check_exactly_once(stack, penguin, scene)


@pytest.mark.parametrize("tier", TIERS)
async def test_a_database_is_stopped(stack: LocalStack, penguin: Penguin, tier: str) -> None:
    async def fault() -> None:
        await stack.stop_database(tier, "immediate")
        try:
            await asyncio.sleep(OUTAGE_S)
        finally:
            await stack.start_database(tier)

    scene = await play(stack, penguin, fault)
    await check_exactly_once(stack, penguin, scene)


async def test_a_launcher_is_killed(stack: LocalStack, penguin: Penguin) -> None:
    """Nobody launches again: the relay's process takes the saga over once the launcher has been silent for its lease."""
    scene = await scenes.campaign(penguin, SIZE * 5)
    command = ("campaign", "launch", str(scene.campaign), "-t", str(scene.tenant))
    launcher = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SHORT_LEASED, "--root", str(stack.root), *command,
        env={name: value for name, value in os.environ.items() if not name.startswith("PENGUIN_")},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(1000):
        created = (await scenes.statuses(penguin, scene)).total()
        if created:
            break
        await asyncio.sleep(0.02)
    launcher.kill()
    await launcher.wait()
    created = (await scenes.statuses(penguin, scene)).total()
    assert 0 < created < SIZE * 5, "it was killed too late to show anything"
    counts = await scenes.settled(penguin, scene, wait_s=120)
    assert counts == {"SENT": SIZE * 5}
    assert scenes.received(stack, scene) == dict.fromkeys(scene.recipients, 1)


async def test_a_worker_is_killed(stack: LocalStack, penguin: Penguin) -> None:
    """A hand-over that was under way is known to nobody: listed as such, and never made twice."""

    async def fault() -> None:
        for _ in range(200):
            if scenes.received(stack, scene):
                break
            await asyncio.sleep(0.02)
        assert 0 < sum(scenes.received(stack, scene).values()) < SIZE, "the worker was not at work"
        await stack.kill("worker")

    scene = await scenes.campaign(penguin, SIZE)
    launched = await penguin.campaigns.launch(scene.tenant, scene.campaign)
    assert launched.created == SIZE
    await fault()
    counts = await scenes.settled(penguin, scene, wait_s=120)
    assert set(counts) <= {"SENT", "OUTCOME_UNKNOWN"}
    received = scenes.received(stack, scene)
    assert max(received.values()) == 1, "an email was delivered twice"
    unknown = {
        e.recipient for e in await scenes.emails_of(penguin, scene) if e.status == email_pb.EMAIL_STATUS_OUTCOME_UNKNOWN
    }
    assert scene.recipients - unknown <= set(received), "an email that counts as sent was not delivered"
    assert await scenes.unclaimed(penguin, scene) == []
    assert await scenes.strays(penguin, scene) == set()
