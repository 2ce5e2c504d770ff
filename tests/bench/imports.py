"""`make bench-import`: 100,000 rows, killed twice mid-way and gone on with, each row once; then undisturbed. `ROWS=20000`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from tests import lead_imports
from tests.bench.report import Report

from penguin_devstack.stack import LocalStack
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas.journal import LEASE_S

ROWS = 100_000
RESULTS = Path(".local") / "bench" / "imports.json"


async def run(report: Report, rows: int) -> None:
    """Measure and report; starts and removes private servers. Raises AssertionError where a row is missing or stands twice."""
    plan = lead_imports.planted(rows)
    with tempfile.TemporaryDirectory(prefix="pi-") as folder:
        stack = LocalStack(Path(folder) / "stack", tied_to_caller=True)
        try:
            await stack.up()
            config = PlatformConfig(**stack.environment("orchestrator"))  # type: ignore[arg-type]
            async with Penguin.connect(config) as penguin:
                await _killed(stack, penguin, Path(folder) / "leads.csv", plan, report)
                await _undisturbed(stack, penguin, plan, report)
        finally:
            await stack.down()


async def _killed(stack: LocalStack, penguin: Penguin, file: Path, plan: lead_imports.Planted, report: Report) -> None:
    async with lead_imports.stage(stack, penguin) as here:
        begun = time.monotonic()
        played = await lead_imports.play(here, file, plan, lambda: asyncio.sleep(LEASE_S))
        whole = time.monotonic() - begun
    print(
        f"{plan.rows:,} rows, {len(plan.problems):,} of them at fault, killed at {played.stood} rows, processes"
        f" {played.owners}: {' + '.join(f'{each:.1f}' for each in played.seconds)} s"
    )
    report.add("lead import killed twice, leases included", whole, "s")
    report.add("lead import killed twice, at work", sum(played.seconds), "s")


async def _undisturbed(stack: LocalStack, penguin: Penguin, plan: lead_imports.Planted, report: Report) -> None:
    async with lead_imports.stage(stack, penguin) as here:
        begun = time.monotonic()
        done = await penguin.leads.import_file(here.tenant, plan.data, lead_imports.AUDIENCE)
        took = time.monotonic() - begun
        await lead_imports.check(here, plan)
    report.add("lead import", took, "s")
    report.add("leads imported", done.rows / took, "/s")


async def _main(rows: int) -> None:
    report = Report()
    await run(report, rows)
    report.write(RESULTS)


if __name__ == "__main__":
    given = dict(each.split("=", 1) for each in sys.argv[1:])
    uvloop.run(_main(int(given.get("ROWS", ROWS))))
