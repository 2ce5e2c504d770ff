"""A steady load beside a transaction that stays open. Whatever dies meanwhile stays in the tables and their indexes; a queue
that reads through its dead gets slower by the minute."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import orjson
from tests.bench.queue.stress.maths import Spread, Trend, Verdicts, ratio, windows
from tests.bench.queue.stress.open_load import OpenLoad
from tests.bench.queue.stress.options import Options
from tests.bench.queue.stress.rig import Rig

from penguin_orchestrator.errors import TierError
from penguin_orchestrator.jobs import Terms
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kind

TERMS = Terms("bench.steady")
# So many jobs a worker without limits may have in hand, and how long a handler takes where places are few (seconds).
WIDE, TAKES_S = 1000, 0.005
POLLERS, PER_LEASE = 8, 10
# The first jobs open streams and connections: they are not measured (seconds).
WARM_UP_S = 2.0
# Those begun last end within this (seconds).
END_S = 10.0
# What is wanted with the transaction open: so much of the offered rate, and a p99 so many times as without it at most.
KEPT, P99_WANTED = 0.99, 2.0

Consume = Callable[[Rig, OpenLoad, Options], contextlib.AbstractAsyncContextManager[None]]


@contextlib.asynccontextmanager
async def _hand_over(rig: Rig, load: OpenLoad, _: Options) -> AsyncIterator[None]:
    async def handle(job: Job) -> None:
        load.begun(job)

    async with rig.working({TERMS.kind: Kind(handle)}, WIDE):
        yield


@contextlib.asynccontextmanager
async def _few_places(rig: Rig, load: OpenLoad, options: Options) -> AsyncIterator[None]:
    async def handle(job: Job) -> None:
        load.begun(job)
        await asyncio.sleep(TAKES_S)

    async with rig.working({TERMS.kind: Kind(handle)}, options.places):
        yield


@contextlib.asynccontextmanager
async def _pollers(rig: Rig, load: OpenLoad, _: Options) -> AsyncIterator[None]:
    async def poll() -> None:
        while True:
            try:
                leased = await rig.lease(TERMS.kind, PER_LEASE, wait_s=5)
                for each in leased.jobs:
                    load.begun_number(int(orjson.loads(each.job.payload)["number"]))
                await rig.complete(leased)
            except TierError:
                await asyncio.sleep(0.1)

    polling = [asyncio.create_task(poll()) for _ in range(POLLERS)]
    try:
        yield
    finally:
        for task in polling:
            task.cancel()
        await asyncio.gather(*polling, return_exceptions=True)


# The first never lets a job become ready; in the others every job, or nearly every one, is ready before it is leased.
VARIANTS: dict[str, Consume] = {"hand-over": _hand_over, "few places": _few_places, "pollers": _pollers}


@dataclass(frozen=True)
class Phase:
    """One stretch of the load."""

    rate: float
    whole: Spread
    windows: list[tuple[float, Spread]]
    unbegun: int
    # Begun and not ended, some seconds after the last was begun.
    unended: int
    dead_rows: int

    @property
    def trend(self) -> Trend:
        """How the windows' p99 moves (milliseconds a minute)."""
        return Trend.of([(at, spread.p99) for at, spread in self.windows]).times(60)

    @property
    def middle(self) -> Trend:
        """The same of their p50, which moves less by chance."""
        return Trend.of([(at, spread.p50) for at, spread in self.windows]).times(60)

    def as_json(self) -> dict[str, Any]:
        kept: dict[str, Any] = {
            "rate": self.rate,
            "unbegun": self.unbegun,
            "unended": self.unended,
            "dead_rows": self.dead_rows,
        }
        kept |= {"whole": asdict(self.whole), "p99_ms_per_minute": asdict(self.trend)}
        kept |= {"p50_ms_per_minute": asdict(self.middle)}
        return kept | {"windows": [{"at": at, **asdict(spread)} for at, spread in self.windows]}


async def _phase(rig: Rig, options: Options, consume: Consume, *, held: bool) -> Phase:
    await rig.empty()
    load = OpenLoad(rig.penguin, uuid4(), TERMS, options.rate)
    async with contextlib.AsyncExitStack() as stack:
        if held:
            await stack.enter_async_context(rig.snapshot_held())
        await stack.enter_async_context(consume(rig, load, options))
        await load.run(WARM_UP_S + options.seconds)
        ended = asyncio.get_running_loop().time()
        unbegun = await load.rest()
        late = asyncio.get_running_loop().time() - ended
        samples = [(at - WARM_UP_S, wait) for at, wait in load.samples() if at >= WARM_UP_S]
        unended = await rig.left(END_S)
        dead = await rig.dead_rows()
    latencies = [latency for _, latency in samples]
    rate = (len(samples) - unbegun) / (options.seconds + late)
    return Phase(rate, Spread.of(latencies), windows(samples, options.window), unbegun, unended, dead)


def _said(trend: Trend) -> str:
    return f"{trend.slope:+7.2f} ({trend.least:+.2f} to {trend.most:+.2f})"


def _lines(name: str, phase: Phase) -> list[str]:
    whole = phase.whole
    moving = f"{_said(phase.middle)} {_said(phase.trend)}"
    unbegun = f"  {phase.unbegun:,} NOT BEGUN" if phase.unbegun else ""
    unbegun += f"  {phase.unended:,} NOT ENDED" if phase.unended else ""
    by_window = " ".join(f"{spread.p50:.1f}/{spread.p99:.1f}" for _, spread in phase.windows)
    return [
        f"  {name:<8}{phase.rate:>9,.1f}{whole.p50:>10,.2f}{whole.p99:>10,.2f}{phase.dead_rows:>12,}  {moving}{unbegun}",
        f"          p50/p99 by window: {by_window}",
    ]


async def run(rig: Rig, options: Options, verdicts: Verdicts) -> dict[str, Any]:
    """Every variant without and with the open transaction."""
    kept: dict[str, Any] = {}
    chosen = {name: consume for name, consume in VARIANTS.items() if name.startswith(options.variant)}
    if not chosen:
        raise ValueError(f"no such variant: {options.variant}; there are {', '.join(VARIANTS)}")
    for variant, consume in chosen.items():
        print(f"\nheld-xmin, {variant}: {options.rate:g} jobs/s for {options.seconds:g} s, ms from the intended time")
        print(
            f"  {'snapshot':<8}{'jobs/s':>9}{'p50':>10}{'p99':>10}{'dead rows':>12}  ms/min the windows' p50 and p99 move (95 %)",
            flush=True,
        )
        phases: dict[str, Phase] = {}
        for name, held in (("free", False), ("held", True)):
            phases[name] = await _phase(rig, options, consume, held=held)
            print("\n".join(_lines(name, phases[name])), flush=True)
        told = {name: phase.as_json() for name, phase in phases.items()}
        kept[variant] = told | _judged(variant, phases, options, verdicts)
    return kept


def _judged(variant: str, phases: dict[str, Phase], options: Options, verdicts: Verdicts) -> dict[str, Any]:
    """Print and return what is wanted of the held run beside the free one."""
    free, held = phases["free"], phases["held"]
    times = ratio(held.whole.p99, free.whole.p99)
    kept = held.rate >= KEPT * options.rate and not held.unbegun and not held.unended
    steady = not (held.trend.upward or held.middle.upward)
    word = verdicts.word(f"{variant}: throughput kept", kept)
    print(f"  throughput kept, {ratio(held.rate, options.rate):.1%} of what was offered: {word}")
    word = verdicts.word(f"{variant}: p99 held beside free", times <= P99_WANTED)
    print(f"  p99 held beside free: {times:.2f}x, wanted <= {P99_WANTED:g}x: {word}")
    print(f"  no upward slope of p50 or p99: {verdicts.word(f'{variant}: no upward slope', steady)}", flush=True)
    return {"p99_ratio": times, "kept": kept, "steady": steady}
