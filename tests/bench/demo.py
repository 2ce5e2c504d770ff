"""The whole demo and the stack's start, as a newcomer has them, packages in place: medians of three."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.report import Report

ROUNDS = 3
TOTAL_S = 60.0
UP_S = 10.0


async def run(report: Report) -> None:
    """Run `penguin demo` in a folder of its own, three times; raises RuntimeError when its checks fail."""
    penguin = Path(sys.executable).with_name("penguin")
    totals: list[float] = []
    ups: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="pd-") as folder:
            process = await asyncio.create_subprocess_exec(
                str(penguin), "--root", folder, "demo",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            if await process.wait():
                raise RuntimeError("the demo failed")
            figures = json.loads((Path(folder) / "demo" / "summary.json").read_text())["figures"]
        totals.append(figures["total_s"])
        ups.append(figures["stack_up_s"])
    report.add("demo in all", statistics.median(totals), "s", limit=TOTAL_S)
    report.add("stack up", statistics.median(ups), "s", limit=UP_S)
