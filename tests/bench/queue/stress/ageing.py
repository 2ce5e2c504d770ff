"""More high-priority work than can be done, for ever, and a little of low priority: the longest that waits."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from tests.bench.queue.stress.maths import Spread, Verdicts
from tests.bench.queue.stress.open_load import OpenLoad
from tests.bench.queue.stress.options import Options
from tests.bench.queue.stress.rig import Rig

from penguin_orchestrator.jobs import Terms
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kind

KIND = "bench.ageing"
# Level with the high ones, a job waits for one lease more (seconds).
TURN_S = 1.0
LOW_RATE = 1.0
# From low over normal to high.
STEPS = 2
# The high-priority load begins so long before the other; and goes on so long beyond the bound, for those sent last.
AHEAD_S, BEYOND = 3.0, 1.5


async def run(rig: Rig, options: Options, verdicts: Verdicts) -> dict[str, Any]:
    """Low-priority jobs for so many seconds, and the load until they have all begun or are long overdue."""
    capacity = options.slots * 1000 / options.handler_ms
    offered, bound = capacity * options.excess, STEPS * options.ageing + TURN_S
    print(
        f"\nageing: {offered:,.0f} jobs/s of high priority where {capacity:,.0f} can be done at most, beside them "
        f"{LOW_RATE:g} job/s of low priority for {options.seconds:g} s; bound {bound:g} s",
        flush=True,
    )
    await rig.empty()
    tenant = uuid4()
    high = OpenLoad(rig.penguin, tenant, Terms(KIND, "high"), offered)
    low = OpenLoad(rig.penguin, uuid4(), Terms(KIND, "low"), LOW_RATE)

    async def handle(job: Job) -> None:
        (high if job.tenant_id == tenant else low).begun(job)
        await asyncio.sleep(options.handler_ms / 1000)

    pressing = AHEAD_S + options.seconds + BEYOND * bound
    async with rig.working({KIND: Kind(handle)}, options.slots), high.running(pressing):
        await asyncio.sleep(AHEAD_S)
        await low.run(options.seconds)
        unbegun = await low.rest(max(0.1, BEYOND * bound - 1))
        waits = Spread.of([wait / 1000 for _, wait in low.samples()])
        piled = high.sent - len(high.waits)
    word = verdicts.word("the longest wait", waits.worst <= bound and not unbegun)
    print(
        f"  low priority waits, s: p50 {waits.p50:,.1f}  p99 {waits.p99:,.1f}  longest {waits.worst:,.1f}  of {waits.count}"
    )
    print(f"  not begun: {unbegun}; high-priority jobs waiting at the end: {piled:,}")
    print(f"  the longest beside the bound of {bound:g} s: {waits.worst / bound:.2f}x: {word}", flush=True)
    return {"seconds": asdict(waits), "unbegun": unbegun, "bound_s": bound, "high_waiting": piled}
