"""Checks of how fast things go: beside a broken collector, and beside a noisy tenant."""

from __future__ import annotations

import asyncio

from penguin_cli.drill import acts, judging
from penguin_cli.drill.acts import READS
from penguin_cli.drill.findings import p99, slower_problems, unfair_problems
from penguin_cli.drill.probing import WORKS_S, Probe, Works
from penguin_cli.drill.stand import eventually

SAMPLES = 200
# Between two reads, so that the samples are of some seconds (seconds).
PAUSE_S = 0.01
FAIR_SAMPLES = 1000


class AsFast(Probe):
    """Reads take as long as they did before the fault, and do after it: all tiers' at the same time, each time alike."""

    async def before(self) -> None:
        self._quiet = await self._measured()

    async def during(self, seconds: float) -> None:
        self._during = await self._measured()

    async def after(self) -> None:
        self.judged(slower_problems(self._quiet, self._during, await self._measured()))

    async def _measured(self) -> list[float]:
        read, times = READS[self.cell.column], list[float]()
        for _ in range(SAMPLES):
            times.append(await self.timed(read(self.penguin, self.sample, acts.TIMEOUT_S), WORKS_S, "a read"))
            await asyncio.sleep(PAUSE_S)
        return times


class Counted(Works):
    """Sends go on; what telemetry loses is counted, and said in the log."""

    async def before(self) -> None:
        self._log = self.stand.stack.log_path("oltp")
        self._from = self._log.stat().st_size

    async def during(self, seconds: float) -> None:
        await super().during(seconds)

        async def counted() -> bool:
            with self._log.open("rb") as log:
                log.seek(self._from)
                return b"spans dropped" in log.read()

        self.judged(judging.counted(await eventually(counted, 10.0, 0.2)))


class Fair(Probe):
    """Others do not feel a tenant that holds what it can get."""

    async def before(self) -> None:
        self._quiet = await self._measured()

    async def during(self, seconds: float) -> None:
        self._during = await self._measured()

    async def after(self) -> None:
        figures = self.scene.figures
        # The slower of before and after: other work on the machine is not the noisy tenant's.
        quiet = max(self._quiet, await self._measured(), key=p99)
        refused, informed = int(figures.get("refused", 0)), int(figures.get("refused_with_retry_info", 0))
        self.judged(unfair_problems(quiet, self._during, refused, informed))

    async def _measured(self) -> list[float]:
        times: list[float] = []
        for number in range(FAIR_SAMPLES):
            sample = self.stand.tenants[number % len(self.stand.tenants)]
            times.append(
                await self.timed(READS["oltp"](self.penguin, sample, acts.TIMEOUT_S), WORKS_S, "another tenant's read")
            )
        return times
