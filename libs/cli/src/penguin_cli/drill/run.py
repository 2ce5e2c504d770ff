"""Runs the drill: a stack of its own under load, each row's fault, its cells' checks during it, and the recovery after it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import grpc

from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.telemetry import telemetry
from penguin_cli.drill import disks
from penguin_cli.drill.account_check import audit
from penguin_cli.drill.acts import READS
from penguin_cli.drill.faults import FAULTS, Scene
from penguin_cli.drill.findings import RECOVERY_S, TOO_BUSY, Cell, Findings, RowFinding, bucketed
from penguin_cli.drill.load import RATE, Load
from penguin_cli.drill.matrix import Row
from penguin_cli.drill.probes import PROBES
from penguin_cli.drill.probing import Probe, recovery
from penguin_cli.drill.stand import Stand, eventually, furnish
from penguin_devstack.guardian import guarded_directory
from penguin_devstack.postgres import THROWAWAY_SETTINGS
from penguin_devstack.stack import LocalStack, StackError
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.errors import TierError
from penguin_orchestrator.messages import OutcomeUnknownError
from penguin_orchestrator.platform import Penguin

Say = Callable[[str], None]
# By then a tier knows that its database does not answer: a look each second, and what one takes.
KNOWN_S = 6.0
# Before and after a fault, so that its history shows what was usual (seconds).
QUIET_S = 2.5
WORKER_LEASE_S = 5
# How often a row is played while other work on the machine keeps it from being told whether its cells hold.
TRIES = 3
# What an outage may do to a drill itself: a finding, and no defect.
_FAILURES = (
    TierError,
    OutcomeUnknownError,
    StackError,
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)


@dataclass(frozen=True)
class Plan:
    """Which rows, for how long each fault stands at least (seconds), and why some cannot be run."""

    rows: Sequence[Row]
    seconds: float
    # Why no disk can be filled here; empty where one can.
    no_disks: str = ""


async def drill(plan: Plan, findings: Findings, say: Say) -> None:
    """Run every row of the plan; what is found stands in `findings`, also when this ends early."""
    began = time.monotonic()
    findings.settings = {
        "seconds a fault": plan.seconds, "acts a second": RATE, "worker's lease (s)": WORKER_LEASE_S,
        "recovery within (s)": RECOVERY_S,
    }  # fmt: skip
    try:
        with (
            telemetry(TelemetrySettings("penguin-drill", log_level="ERROR")),
            guarded_directory("penguin-drill-") as folder,
        ):
            async with _stand(folder / "local", plan, say) as stand, Load(stand).running() as load:
                for number, row in enumerate(plan.rows, 1):
                    await _next(stand, load, row, plan, findings, f"{number}/{len(plan.rows)} {row.title}", say)
    finally:
        findings.took_s = round(time.monotonic() - began, 1)


@contextlib.asynccontextmanager
async def _stand(root: Path, plan: Plan, say: Say) -> AsyncIterator[Stand]:
    environment = {
        "worker": {"ETL_INTERVAL_S": "2", "WORKER_LEASE_S": str(WORKER_LEASE_S)},
    }
    small = sorted({row.tier for row in plan.rows if row.fault == "fill_disk"} if not plan.no_disks else ())
    moved: list[str] = []
    settings = {**THROWAWAY_SETTINGS, **disks.SETTINGS}
    stack = LocalStack(root, tied_to_caller=True, environment=environment, database_settings=settings)
    try:
        say("the stack starts …")
        await stack.up()
        for tier in small:
            moved.append(tier)
            await disks.put_on_small_disk(stack, tier)
        config = PlatformConfig(**stack.environment("orchestrator"))  # type: ignore[arg-type]
        async with Penguin.connect(config) as penguin:
            stand = await furnish(stack, penguin)
            say(f"it is up, with {len(stand.tenants)} tenants at work")
            yield stand
    finally:
        say("the stack stops …")
        await stack.down()
        for tier in moved:
            disks.take_off(stack, tier)


async def _next(stand: Stand, load: Load, row: Row, plan: Plan, findings: Findings, title: str, say: Say) -> None:
    found = RowFinding.of(row)
    findings.rows.append(found)
    if row.fault == "fill_disk" and plan.no_disks:
        found.not_run(plan.no_disks)
    else:
        for tries in range(1, TRIES + 1):
            found = findings.rows[-1] = RowFinding.of(row)
            try:
                await _Play(stand, load, row, found).run(plan.seconds)
            except _FAILURES as error:
                # The rows after it are tried all the same.
                found.problems.append(f"the row could not be run to its end: {error or type(error).__name__}")
            found.figures["tries"] = tries
            if not found.untold:
                break
            say(f"{title}: {TOO_BUSY}")
    say(f"{title}: {found.verdict}{_words(found)}")
    for cell in found.cells:
        for problem in cell.problems:
            say(f"    {cell.column}: {problem}")
    for problem in found.problems:
        say(f"    {problem}")


def _words(found: RowFinding) -> str:
    times = [cell.recovered_s for cell in found.cells if cell.recovered_s is not None]
    return f", {found.reason}" if found.reason else f", back after {max(times, default=0.0):.1f} s"


class _Play:
    """One row from its beginning to its account."""

    def __init__(self, stand: Stand, load: Load, row: Row, found: RowFinding) -> None:
        self._scene = Scene(stand, row, load)
        self._found = found
        self._probes: list[Probe] = [PROBES[cell.promise](self._scene, cell) for cell in found.cells]

    async def run(self, seconds: float) -> None:
        """Quiet, fault, probes, mending, recovery, account."""
        scene, found = self._scene, self._found
        await self._all_work()
        pids = scene.stand.pids()
        began = time.monotonic()
        await asyncio.sleep(QUIET_S)
        await self._each(lambda probe: probe.before())
        fault = FAULTS[scene.row.fault](scene)
        broken_at = time.monotonic()
        async with contextlib.AsyncExitStack() as mending:
            await mending.enter_async_context(fault)
            try:
                await self._known()
                await self._undisturbed()
                await self._each(lambda probe: probe.during(seconds))
            finally:
                mended_at = time.monotonic()
                mender = asyncio.create_task(mending.aclose())
            try:
                await asyncio.gather(*(self._recovered(cell, mended_at) for cell in found.cells))
            finally:
                await mender
        await self._each(lambda probe: probe.after())
        self._check_restarts(pids)
        await self._account()
        for cell in found.cells:
            cell.over()
        ended = min(
            time.monotonic(), mended_at + max(QUIET_S, *(cell.recovered_s or 0 for cell in found.cells)) + QUIET_S
        )
        found.history = bucketed(list(scene.load.acts), began, ended)
        found.fault_from_s, found.fault_to_s = round(broken_at - began, 2), round(mended_at - began, 2)
        found.figures |= scene.figures
        found.problems += scene.problems

    async def _all_work(self) -> None:
        """A row begins with everything up, whatever the one before has broken; what is not is told by that one."""
        for column in READS:
            await eventually(recovery(self._scene, column), RECOVERY_S)

    async def _each(self, act: Callable[[Probe], object]) -> None:
        async def guarded(probe: Probe) -> None:
            try:
                await act(probe)  # type: ignore[misc]
            except _FAILURES as error:
                probe.wrong(str(error) or type(error).__name__)

        await asyncio.gather(*(guarded(probe) for probe in self._probes))

    async def _known(self) -> None:
        """A tier whose database does not answer keeps calls' deadlines until it knows, and then refuses at once."""
        row, stand = self._scene.row, self._scene.stand
        if row.fault != "freeze_database":
            return
        late: list[float] = []

        async def sheds() -> bool:
            began = time.monotonic()
            try:
                await READS[row.tier](stand.penguin, stand.tenants[0], 1.0)
            except TierError as error:
                late.append(time.monotonic() - began)
                return error.code is grpc.StatusCode.UNAVAILABLE
            return False

        took = await eventually(sheds, KNOWN_S)
        cell = self._cell(row.tier)
        if took is None:
            cell.problems.append(f"did not know of it after {KNOWN_S:g} s")
        elif max(late) > 2.0:
            cell.problems.append(f"a call with a deadline of 1 s took {max(late):.1f} s")
        else:
            cell.said.append(f"known after {took:.1f} s, deadlines kept until then")

    async def _undisturbed(self) -> None:
        scene = self._scene
        if scene.disturbed and await eventually(recovery(scene, scene.disturbed), RECOVERY_S) is None:
            scene.problems.append(f"{scene.disturbed} did not work again after it was disturbed: nothing was shown")

    async def _recovered(self, cell: Cell, since: float) -> None:
        back = await eventually(recovery(self._scene, cell.column), RECOVERY_S)
        cell.recovered(None if back is None else round(time.monotonic() - since, 2))

    def _check_restarts(self, before: dict[str, int]) -> None:
        row, after = self._scene.row, self._scene.stand.pids()
        changed = {name for name, pid in before.items() if after.get(name) != pid}
        if unasked := changed - {*row.ends, *row.may_end}:
            self._found.problems.append(f"started anew, or gone: {', '.join(sorted(unasked))}")
        if idle := set(row.ends) - changed:
            self._found.problems.append(f"not ended by the fault: {', '.join(sorted(idle))}")

    async def _account(self) -> None:
        load = self._scene.load
        part = load.account.open_part()
        await load.settle_unknown(part.mails)
        result = await audit(self._scene.stand, part, holds=self._scene.row.holds)
        self._found.problems += result.problems
        self._found.held = result.held
        self._found.figures |= result.figures

    def _cell(self, column: str) -> Cell:
        return next(cell for cell in self._found.cells if cell.column == column)


def begun_now() -> str:
    """The time as a drill is dated (UTC)."""
    return datetime.now(UTC).isoformat(timespec="seconds")
