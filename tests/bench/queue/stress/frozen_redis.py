"""Small leases while Redis stops answering: how long until they are what they were."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from tests.bench.queue.stress.maths import Spread, ratio, windows
from tests.bench.queue.stress.options import Options
from tests.bench.queue.stress.rig import Rig

from penguin_orchestrator.jobs import Terms

TERMS = Terms("bench.small")
# Of each window, of the normal stretch before, and between two leases (seconds); how many are asked for.
WINDOW_S, NORMAL_S, PAUSE_S, PER_LEASE = 1.0, 5.0, 0.01, 10
# So long the queue may take to notice (seconds), and so many times the normal p99 leases may take from then on.
NOTICED_S, WANTED = 1.0, 2.0


async def _leases(rig: Rig, seconds: float) -> list[tuple[float, float]]:
    """Leases for so long, each of jobs that were enqueued just before: when, and how long it took."""
    tenant, samples = uuid4(), []
    started = time.perf_counter()
    while (at := time.perf_counter() - started) < seconds:
        await rig.penguin.jobs.enqueue_many(tenant, TERMS, [{}] * PER_LEASE)
        asked = time.perf_counter()
        leased = await rig.lease(TERMS.kind, PER_LEASE)
        samples.append((at, (time.perf_counter() - asked) * 1000))
        await rig.complete(leased)
        await asyncio.sleep(PAUSE_S)
    return samples


async def run(rig: Rig, options: Options) -> dict[str, Any]:
    """Before, and second by second after it was stopped."""
    print("\nfrozen-redis: LeaseJobs(10), ms; Redis is stopped and continued", flush=True)
    await rig.empty()
    await _leases(rig, 2.0)
    normal = Spread.of([latency for _, latency in await _leases(rig, NORMAL_S)])
    rig.stack.freeze("valkey")
    try:
        stopped = await _leases(rig, options.frozen)
    finally:
        rig.stack.thaw("valkey")
    print(f"  normal    p50{normal.p50:>9,.2f}  p99{normal.p99:>9,.2f}  ({normal.count} leases)")
    kept = []
    for at, spread in windows(stopped, WINDOW_S):
        times = ratio(spread.p99, normal.p99)
        kept.append({"second": int(at) + 1, "p50": spread.p50, "p99": spread.p99, "ratio": times})
        print(
            f"  second{int(at) + 1:>3} p50{spread.p50:>9,.2f}  p99{spread.p99:>9,.2f}{times:>8.2f}x  ({spread.count} leases)"
        )
    later = Spread.of([latency for at, latency in stopped if at >= NOTICED_S])
    times = ratio(later.p99, normal.p99)
    word = "holds" if times < WANTED else "FALLS SHORT"
    print(
        f"  p99 once it is noticed, after {NOTICED_S:g} s: {later.p99:,.2f}, {times:.2f}x, wanted < {WANTED:g}x: {word}"
    )
    return {"normal": asdict(normal), "frozen": kept, "after_noticed": asdict(later), "p99_ratio": times}
