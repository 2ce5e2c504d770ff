"""What the Python drivers share: scenarios over four functions, clocks, and the line that is printed."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import uvloop

PER_CALL = 1000
IN_FLIGHT = 32
WARM_UP = 200
# Between two jobs of the idle scenario, so that the worker sleeps when the next one comes (seconds).
PAUSE_S = 0.02

Payload = dict[str, str]


@dataclass
class Drained:
    """Counts handled jobs; `done` is set by the last one."""

    wanted: int
    count: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def one(self) -> None:
        """Another job is handled."""
        self.count += 1
        if self.count == self.wanted:
            self.done.set()

    async def wait(self, limit_s: float) -> bool:
        """Whether all were handled in time."""
        try:
            async with asyncio.timeout(limit_s):
                await self.done.wait()
        except TimeoutError:
            return False
        return True


class Driver(Protocol):
    """One queue behind the four scenarios."""

    async def open(self) -> None:
        """Connect, and create what the queue needs; not measured."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...

    async def enqueue(self, payloads: Sequence[Payload]) -> None:
        """Store a batch by the queue's bulk call."""
        ...

    async def enqueue_one(self, payload: Payload) -> None:
        """Store one job by the queue's plain call."""
        ...

    async def drain(self, drained: Drained, limit_s: float) -> None:
        """Work until all are handled and acknowledged, or the time is over."""
        ...

    async def work(self, handled: Callable[[], None], ready: asyncio.Event) -> None:
        """Work until cancelled, calling `handled` as each handler starts; sets `ready` once jobs are waited for."""
        ...


def payloads(count: int) -> list[Payload]:
    """No two alike."""
    return [{"email_id": str(uuid4())} for _ in range(count)]


async def at_once(calls: Sequence[Callable[[], Awaitable[object]]], callers: int) -> float:
    """Seconds that `callers` need for all calls."""
    left = iter(calls)

    async def caller() -> None:
        for call in left:
            await call()

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - started


async def _bulk(driver: Driver, count: int) -> dict[str, float]:
    jobs = payloads(count)
    parts = [jobs[first : first + PER_CALL] for first in range(0, count, PER_CALL)]
    callers = int(os.environ.get("BENCH_CALLERS", "4"))
    return {"rate": count / await at_once([partial(driver.enqueue, part) for part in parts], callers)}


async def _single(driver: Driver, count: int) -> dict[str, float]:
    calls = [partial(driver.enqueue_one, job) for job in payloads(count + WARM_UP)]
    await at_once(calls[:WARM_UP], IN_FLIGHT)
    return {"rate": count / await at_once(calls[WARM_UP:], IN_FLIGHT)}


async def _drain(driver: Driver, count: int) -> dict[str, float]:
    limit_s = float(os.environ.get("BENCH_LIMIT_S", "20"))
    drained = Drained(count)
    started = time.perf_counter()
    await driver.drain(drained, limit_s)
    return {"rate": drained.count / (time.perf_counter() - started)}


async def _idle(driver: Driver, count: int) -> dict[str, float]:
    begun: asyncio.Queue[float] = asyncio.Queue()
    ready = asyncio.Event()
    working = asyncio.create_task(driver.work(lambda: begun.put_nowait(time.perf_counter()), ready))
    waits: list[float] = []
    try:
        async with asyncio.timeout(60):
            await ready.wait()
            for job in payloads(count + 10):
                await asyncio.sleep(PAUSE_S)
                started = time.perf_counter()
                await driver.enqueue_one(job)
                waits.append((await begun.get() - started) * 1000)
    finally:
        working.cancel()
        await asyncio.wait([working], timeout=2)
    return {"p50": statistics.median(waits[10:]), "p99": statistics.quantiles(waits[10:], n=100)[98]}


SCENARIOS = {"bulk": _bulk, "drain": _drain, "single": _single, "idle": _idle}


async def _measured(driver: Driver, scenario: str, count: int) -> dict[str, float]:
    await driver.open()
    try:
        # As our own processes do: a batch of short-lived messages sets off no collection each.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        return await SCENARIOS[scenario](driver, count)
    finally:
        await driver.close()


def main(driver: Callable[[], Driver]) -> None:
    """Run the scenario that the arguments name and print its figure."""
    _, scenario, count = sys.argv

    async def run() -> dict[str, float]:
        return await _measured(driver(), scenario, int(count))

    figures: dict[str, Any] = uvloop.run(run())
    print(json.dumps(figures), flush=True)
