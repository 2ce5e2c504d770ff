"""A queue that is full, beside one that is empty: what small leases and one more job take, and what the full one weighs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID, uuid4

from tests.bench.queue.peers.measuring import at_once
from tests.bench.queue.stress.maths import Spread, Verdicts, ratio
from tests.bench.queue.stress.options import Options
from tests.bench.queue.stress.rig import Rig
from tests.bench.queue.stress.rounds import Rounds

from penguin_orchestrator.jobs import Terms
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kind

PILED, OWN = Terms("bench.piled"), Terms("bench.own")
# Jobs a call as the backlog is filled, and calls at once.
PER_CALL, CALLERS = 1000, 4
# The small leases, measured in so many rounds, and how many times the empty queue's p99 they may take.
SMALL, ROUNDS, WANTED = {"LeaseJobs(1)": 1, "LeaseJobs(10)": 10}, 5, 2.0
# What another tenant's single job of the same kind waits for beside one tenant's backlog: the lease under way, and no more.
BETWEEN, ROUNDS_BETWEEN = "leases between ready and leased", 1
# What the service's container is given (deploy/k8s/base/queue).
SERVICE_MOST_MIB = 512
# Between two single jobs, and how long one is waited for (seconds).
PAUSE_S, LATEST_S = 0.02, 30.0
# The worker that works on the backlog beside: so many places, each held for so long (seconds).
PLACES, TAKES_S = 20, 0.02


async def _pile(rig: Rig, tenants: Sequence[UUID], jobs: int) -> float:
    """Fill the queue, the tenants in turns; returns jobs a second."""
    sizes = [min(PER_CALL, jobs - first) for first in range(0, jobs, PER_CALL)]
    numbered = iter(enumerate(sizes))

    async def one() -> None:
        number, size = next(numbered)
        payloads = [{"number": n} for n in range(size)]
        await rig.penguin.jobs.enqueue_many(tenants[number % len(tenants)], PILED, payloads)

    return jobs / await at_once([one] * len(sizes), CALLERS)


async def _leases(rig: Rig, most: int, samples: int) -> Spread:
    """Leases of so many, each after as many were added, so that an empty queue has something to lease too."""
    tenant, took = uuid4(), []
    for _ in range(samples):
        await rig.penguin.jobs.enqueue_many(tenant, PILED, [{"number": -1}] * most)
        asked = time.perf_counter()
        leased = await rig.lease(PILED.kind, most)
        took.append((time.perf_counter() - asked) * 1000)
        await rig.complete(leased)
    return Spread.of(took)


async def _singles(rig: Rig, terms: Terms, samples: int) -> tuple[Spread, Spread]:
    """Single jobs of a tenant that has no others, one after the other: from enqueue to handler, a stream working on their
    kind, in ms and in leases between. One that is waited for in vain counts as long as it was waited for."""
    tenant, rounds = uuid4(), Rounds()
    begun: asyncio.Queue[float] = asyncio.Queue()
    waits: list[float] = []

    async def handle(job: Job) -> None:
        if job.tenant_id == tenant:
            rounds.leased(job)
            begun.put_nowait(time.perf_counter())
        else:
            rounds.granted(job.lease_token)
            await asyncio.sleep(TAKES_S)

    async with rig.working({terms.kind: Kind(handle)}, PLACES):
        await asyncio.sleep(1.0)
        for number in range(samples):
            await asyncio.sleep(PAUSE_S)
            started = time.perf_counter()
            await rig.penguin.jobs.enqueue(tenant, terms, {"number": number})
            rounds.stored(tenant, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LATEST_S):
                    await begun.get()
            waits.append((time.perf_counter() - started) * 1000)
    return Spread.of(waits), Spread.of(rounds.waited)


async def _measured(rig: Rig, samples: int) -> dict[str, Spread]:
    # In turns, and medians of rounds: a p99 of one round is its third-worst sample.
    rounds: dict[str, list[Spread]] = {name: [] for name in SMALL}
    for _ in range(ROUNDS):
        for name, most in SMALL.items():
            rounds[name].append(await _leases(rig, most, samples))
    own, _ = await _singles(rig, OWN, samples)
    same, between = await _singles(rig, PILED, samples)
    return {name: Spread.median(spreads) for name, spreads in rounds.items()} | {
        "one job, own kind": own,
        "one job, same kind": same,
        BETWEEN: between,
    }


async def run(rig: Rig, options: Options, verdicts: Verdicts) -> dict[str, Any]:
    """The empty queue, then a backlog of one tenant, then one of many."""
    jobs, samples = options.jobs, options.samples
    states: dict[str, list[UUID]] = {
        "empty": [],
        "1 tenant": [uuid4()],
        f"{options.tenants:,} tenants": [uuid4() for _ in range(options.tenants)],
    }
    print(f"\nbacklog: {jobs:,} ready jobs beside none; ms, and how many times the empty queue's")
    kept: dict[str, Any] = {}
    empty: dict[str, Spread] = {}
    for state, tenants in states.items():
        await rig.empty()
        before = await rig.memory_mib()
        async with rig.weighed() as most:
            rate = await _pile(rig, tenants, jobs) if tenants else None
            figures = await _measured(rig, samples)
        between = figures.pop(BETWEEN)
        empty = empty or figures
        print(f"  {state}" + (f" (filled at {rate:,.0f} jobs/s)" if rate else ""))
        for name, spread in figures.items():
            p50, p99 = ratio(spread.p50, empty[name].p50), ratio(spread.p99, empty[name].p99)
            print(f"    {name:<20} p50{spread.p50:>9,.2f}{p50:>8.2f}x   p99{spread.p99:>9,.2f}{p99:>8.2f}x")
        print(
            f"    of the same kind, {BETWEEN}: p50 {between.p50:.0f}  p99 {between.p99:.0f}  most {between.worst:.0f}"
        )
        weights = ", ".join(f"{name} {before[name]:,.0f} → {most[name]:,.0f}" for name in most)
        print(f"    memory before → most, MiB: {weights}; the service's <= {SERVICE_MOST_MIB}: ", end="")
        print(verdicts.word(f"{state}: memory", most["service"] <= SERVICE_MOST_MIB), flush=True)
        if tenants:
            worst = max(ratio(figures[name].p99, empty[name].p99) for name in SMALL)
            word = verdicts.word(f"{state}: p99 of small leases", worst <= WANTED)
            print(f"    p99 of small leases: {worst:.2f}x, wanted <= {WANTED:g}x: {word}", flush=True)
        if len(tenants) == 1:
            word = verdicts.word(f"{state}: {BETWEEN}", between.worst <= ROUNDS_BETWEEN)
            print(f"    beside the one, {BETWEEN}: {between.worst:.0f}, wanted <= {ROUNDS_BETWEEN}: {word}")
        measured = {name: asdict(spread) for name, spread in (*figures.items(), (BETWEEN, between))}
        kept[state] = {"fill_rate": rate, "ms": measured, "memory_mib": {"before": before, "most": dict(most)}}
    return kept
