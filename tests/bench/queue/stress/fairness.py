"""One noisy tenant beside many quiet ones, where places are scarce and not the processor: what the quiet ones notice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import asdict
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psutil
from tests.bench.queue.stress.maths import Spread, Verdicts, ratio
from tests.bench.queue.stress.open_load import OpenLoad
from tests.bench.queue.stress.options import Options
from tests.bench.queue.stress.rig import Rig
from tests.bench.queue.stress.rounds import Rounds

from penguin_orchestrator.jobs import Terms
from penguin_worker.jobs import Job
from penguin_worker.kinds import Kind

TERMS = Terms("bench.fair")
QUIET_RATE = 1.0
# Of the noisy tenant before anybody else begins, so that it has a backlog from the first moment on.
AHEAD_S = 5.0
# Of the quiet ones' p99 alone; and how many leases may be granted between a job's being ready and its own: those that were
# under way then, two at most.
WANTED, BETWEEN = 2.0, 2
# What the noisy one's load may take of the processors (per cent), or it is not tenants that are measured but the machine.
LOAD_MOST = 70.0


async def _phase(rig: Rig, options: Options, noisy_rate: float) -> tuple[Spread, Spread, int, float, float]:
    """Waits of the quiet ones in ms, and in leases of those that found no place, how many never began, jobs a second of the noisy one, the processors'
    load."""
    await rig.empty()
    rounds, in_hand = Rounds(), 0
    loads: dict[UUID, OpenLoad] = {}

    def stored(tenant: UUID, number: int) -> None:
        # Only who finds no place free can be passed over: beside free places leases are granted side by side.
        if in_hand >= options.slots:
            rounds.stored(tenant, number)

    for _ in range(options.quiet):
        tenant = uuid4()
        loads[tenant] = OpenLoad(rig.penguin, tenant, TERMS, QUIET_RATE, on_stored=partial(stored, tenant))
    noisy = OpenLoad(rig.penguin, uuid4(), TERMS, noisy_rate)

    async def handle(job: Job) -> None:
        nonlocal in_hand
        in_hand += 1
        load = loads.get(job.tenant_id)
        (load or noisy).begun(job)
        if load:
            rounds.leased(job)
        else:
            rounds.granted(job.lease_token)
        await asyncio.sleep(options.handler_ms / 1000)
        in_hand -= 1

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(rig.working({TERMS.kind: Kind(handle)}, options.slots))
        if noisy_rate:
            await stack.enter_async_context(noisy.running(AHEAD_S + options.seconds))
            await asyncio.sleep(AHEAD_S)
        psutil.cpu_percent()
        first = len(noisy.waits)
        async with asyncio.TaskGroup() as quiet:
            for load in loads.values():
                quiet.create_task(load.run(options.seconds, random.uniform(0, 1 / QUIET_RATE)))
        busy, done = psutil.cpu_percent(), len(noisy.waits) - first
        unbegun = sum(await asyncio.gather(*(load.rest() for load in loads.values())))
        waits = [wait for load in loads.values() for _, wait in load.samples()]
    return Spread.of(waits), Spread.of(rounds.waited), unbegun, done / options.seconds, busy


async def run(rig: Rig, options: Options, verdicts: Verdicts) -> dict[str, Any]:
    """The quiet ones alone, then beside the noisy one."""
    capacity = options.slots * 1000 / options.handler_ms
    offered = capacity * options.excess
    print(
        f"\nfairness: {options.quiet} tenants of {QUIET_RATE:g} job/s, {options.slots} places of {options.handler_ms:g} ms "
        f"({capacity:,.0f} jobs/s at most); beside them one that offers {offered:,.0f} jobs/s; {options.seconds:g} s each"
    )
    kept: dict[str, Any] = {}
    spreads: dict[str, Spread] = {}
    for name, rate in (("alone", 0.0), ("noisy beside", offered)):
        waits, leases, unbegun, noisy, busy = await _phase(rig, options, rate)
        spreads[name] = waits
        missing = f"  {unbegun:,} NOT BEGUN" if unbegun else ""
        print(
            f"  {name:<13} wait ms p50{waits.p50:>8,.1f} p99{waits.p99:>8,.1f}   found all places taken {leases.count:>5,}   "
            f"noisy {noisy:,.0f} jobs/s, processors {busy:.0f} %{missing}",
            flush=True,
        )
        kept[name] = {
            "ms": asdict(waits),
            "leases": asdict(leases),
            "unbegun": unbegun,
            "noisy_rate": noisy,
            "cpu": busy,
        }
    times = ratio(spreads["noisy beside"].p99, spreads["alone"].p99)
    word = verdicts.word("p99 beside the noisy one", times <= WANTED)
    print(f"  p99 beside the noisy one: {times:.2f}x of alone, wanted <= {WANTED:g}x: {word}", flush=True)
    load = kept["noisy beside"]["cpu"]
    word = verdicts.word("the processors' load", load <= LOAD_MOST)
    print(f"  processors at {load:.0f} % beside the noisy one, to be <= {LOAD_MOST:.0f} %: {word}")
    print(_said_of_leases(kept["noisy beside"]["leases"], verdicts), flush=True)
    return kept | {"p99_ratio": times}


def _said_of_leases(waited: dict[str, Any], verdicts: Verdicts) -> str:
    if not waited["count"]:
        return "  leases between ready and leased: not judged, nobody found all places taken; it takes fewer of them (SLOTS)"
    most = waited["worst"]
    return (
        f"  of {waited['count']} that found all places taken, at most {most:.0f} leases between ready and leased, "
        f"wanted <= {BETWEEN}: {verdicts.word('leases between ready and leased', most <= BETWEEN)}"
    )
