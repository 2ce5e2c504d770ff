"""What breaks the stack, and what mends it again. Each fault is entered, stands, and is mended once, also when the drill is
interrupted; processes that a fault ends are kept ended until it is mended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from uuid import UUID

from penguin_cli.drill import disks
from penguin_cli.drill.acts import letter
from penguin_cli.drill.load import Load
from penguin_cli.drill.matrix import Row
from penguin_cli.drill.stand import AUDIENCE, Stand, add_leads, eventually
from penguin_devstack.valkey import flush
from penguin_orchestrator import keys

LEADS = 800
# The SMTP server answers those only after so long (ms): a hand-over is under way for as long as that.
SLOW_MS = 2000
_SOON_S, _LONG_S = 10.0, 30.0


@dataclass
class Scene:
    """What a row's fault and its probes know in common."""

    stand: Stand
    row: Row
    load: Load
    figures: dict[str, float | int] = field(default_factory=dict)
    # What was not as the fault needs it: then nothing was shown.
    problems: list[str] = field(default_factory=list)
    # A tier that had to be disturbed for the fault to come about, and has no part in it: it is itself again before the cells are
    # looked at.
    disturbed: str = ""
    campaign: UUID | None = None
    audience: tuple[str, ...] = ()

    @property
    def port(self) -> int:
        """Redis' port."""
        return self.stand.stack.status().components["valkey"].port or 0


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def _ended(scene: Scene, component: str, number: signal.Signals) -> AsyncIterator[None]:
    await scene.stand.stack.stop(component, number)
    try:
        yield
    finally:
        await scene.stand.stack.start(component)


@contextlib.asynccontextmanager
async def _frozen(scene: Scene, component: str) -> AsyncIterator[None]:
    scene.stand.stack.freeze(component)

    async def stands() -> bool:
        return scene.stand.stack.frozen(component)

    try:
        if await eventually(stands, _SOON_S, 0.01) is None:
            scene.problems.append(f"{component} was never seen frozen: nothing was shown")
        yield
    finally:
        scene.stand.stack.thaw(component)


def kill_service(scene: Scene) -> AbstractAsyncContextManager[None]:
    """SIGKILL the tier's service."""
    return _ended(scene, scene.row.tier, signal.SIGKILL)


def stop_database(scene: Scene) -> AbstractAsyncContextManager[None]:
    """`pg_ctl stop -m immediate`."""
    return _ended(scene, f"{scene.row.tier}-db", signal.SIGQUIT)


def freeze_database(scene: Scene) -> AbstractAsyncContextManager[None]:
    """SIGSTOP the postmaster and every backend."""
    return _frozen(scene, f"{scene.row.tier}-db")


@contextlib.asynccontextmanager
async def fill_disk(scene: Scene) -> AsyncIterator[None]:
    """Leave the tier's database no room."""
    filler = await asyncio.to_thread(disks.fill, scene.stand.stack, scene.row.tier)
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def flush_redis(scene: Scene) -> AsyncIterator[None]:
    """FLUSHALL, again and again."""

    async def flushing() -> None:
        while True:
            flushed = await asyncio.to_thread(flush, scene.port)
            scene.figures["flushes"] = scene.figures.get("flushes", 0) + flushed
            await asyncio.sleep(0.2)

    task = asyncio.create_task(flushing())
    try:
        yield
    finally:
        await _cancelled(task)
        if not scene.figures.get("flushes"):
            scene.problems.append("Redis never said that it was flushed: nothing was shown")


def kill_redis(scene: Scene) -> AbstractAsyncContextManager[None]:
    """SIGKILL Redis."""
    return _ended(scene, "valkey", signal.SIGKILL)


def freeze_redis(scene: Scene) -> AbstractAsyncContextManager[None]:
    """SIGSTOP Redis."""
    return _frozen(scene, "valkey")


def kill_collector(scene: Scene) -> AbstractAsyncContextManager[None]:
    """SIGKILL the collector."""
    return _ended(scene, "otlp", signal.SIGKILL)


def freeze_collector(scene: Scene) -> AbstractAsyncContextManager[None]:
    """SIGSTOP the collector: it takes connections and answers nothing."""
    return _frozen(scene, "otlp")


@contextlib.asynccontextmanager
async def hold_places(scene: Scene) -> AsyncIterator[None]:
    """One tenant's calls all wait for a lock on its own row, at 20 times a tenant's share, and hold what they can get."""
    stand, sample = scene.stand, scene.stand.noisy
    async with stand.database("oltp") as connection, connection.transaction():
        await connection.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", sample.lead)
        # A process of its own: it must not be felt in ours.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "penguin_cli.drill.noise", str(sample.tenant), str(sample.lead),
            env={**os.environ, **stand.stack.environment("orchestrator")}, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await asyncio.wait_for(process.stdout.readline(), _LONG_S)  # type: ignore[union-attr]
            yield
            said, _ = await asyncio.wait_for(process.communicate(b""), _LONG_S)
            refused, informed = map(int, said.split())
            scene.figures |= {"refused": refused, "refused_with_retry_info": informed}
        finally:
            await _killed(process)


@contextlib.asynccontextmanager
async def kill_worker(scene: Scene) -> AsyncIterator[None]:
    """SIGKILL the worker while emails are with the SMTP server, which has them and has not said so."""
    stand, load = scene.stand, scene.load
    slow = [f"slow-{SLOW_MS}-{load.address()}" for _ in range(4)]
    await load.send(stand.tenants[0], [letter(stand.tenants[0], address) for address in slow])

    async def in_the_act() -> bool:
        received = await stand.received()
        return any(received[address] for address in slow)

    if await eventually(in_the_act, _SOON_S, 0.05) is None:
        scene.problems.append("the worker was never seen handing over: nothing was shown")
    async with _ended(scene, "worker", signal.SIGKILL):
        yield


@contextlib.asynccontextmanager
async def kill_relay(scene: Scene) -> AsyncIterator[None]:
    """SIGKILL the relay while it holds leased rows: their destination hangs, so that it must."""
    stand, load = scene.stand, scene.load
    sample, scene.disturbed = stand.tenants[0], "queue"
    async with contextlib.AsyncExitStack() as stack:
        async with _frozen(scene, "queue-db"):
            await load.send(sample, [letter(sample, load.address()) for _ in range(50)])

            async def leased() -> bool:
                sql = "SELECT FROM outbox WHERE lease_token IS NOT NULL AND tenant_id = $1 LIMIT 1"
                return bool(await stand.rows("oltp", sql, sample.tenant))

            if await eventually(leased, _SOON_S, 0.05) is None:
                scene.problems.append("the relay was never seen with leased rows: nothing was shown")
            await stack.enter_async_context(_ended(scene, "relay", signal.SIGKILL))
        yield


@contextlib.asynccontextmanager
async def kill_launch(scene: Scene) -> AsyncIterator[None]:
    """SIGKILL a client process that is launching a campaign, when some of the emails are there and some are not."""
    stand = scene.stand
    sample, penguin = stand.tenants[0], stand.penguin
    scene.audience = tuple(scene.load.address() for _ in range(LEADS))
    name = f"{AUDIENCE}-{keys.new_id()}"
    await add_leads(penguin, sample.tenant, scene.audience, name)
    scene.campaign = await penguin.campaigns.create(
        sample.tenant, "Drill", name, template_id=sample.template, mailbox_id=sample.mailbox
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PENGUIN_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penguin_cli", "--root", str(stand.stack.root), "campaign", "launch", str(scene.campaign),
        "-t", str(sample.tenant), env=environment, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:

        async def begun() -> bool:
            return await created(stand, scene.campaign) > 0

        if await eventually(begun, 30, 0.01) is None:
            scene.problems.append("the launch never began: nothing was shown")
    finally:
        await _killed(process)
    scene.figures["created_before_kill"] = there = await created(stand, scene.campaign)
    if there >= LEADS:
        scene.problems.append("the launch was over before the fault: nothing was shown")
    yield


async def created(stand: Stand, campaign: UUID | None) -> int:
    """How many emails the campaign has."""
    (row,) = await stand.rows("oltp", "SELECT count(*) AS n FROM emails WHERE campaign_id = $1", campaign)
    return int(row["n"])


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


FAULTS: dict[str, Fault] = {
    each.__name__: each
    for each in (
        kill_service, stop_database, freeze_database, fill_disk, flush_redis, kill_redis, freeze_redis, kill_collector,
        freeze_collector, hold_places, kill_worker, kill_relay, kill_launch,
    )
}  # fmt: skip
