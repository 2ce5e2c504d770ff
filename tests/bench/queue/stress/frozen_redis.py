"""Two services on one database while Redis stops answering them: how long until small leases are what they were, and whether
what has a rate goes on, and keeps to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from tests.bench.queue.stress.maths import Sample, Spread, Verdicts, ratio, windows
from tests.bench.queue.stress.options import Options
from tests.bench.queue.stress.rig import Rig
from tests.queues import another_queue, beyond_rate, put_rated_queue

from penguin_devstack.ports import free_port
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.jobs import Terms
from penguin_orchestrator.platform import Penguin

TERMS, RATED = Terms("bench.small"), Terms("bench.rated")
# Of each window, of the stretches before and after, and between two leases (seconds); how many are asked for.
WINDOW_S, NORMAL_S, PAUSE_S, PER_LEASE = 1.0, 5.0, 0.01, 10
# So long the queue may take to notice (seconds); so many times the normal p99 leases may take from then on where the jobs were sent
# to, and so long at the other service (ms), which is told nothing and looks; and so much of the rate is to be given.
NOTICED_S, WANTED, WANTED_OTHER, WANTED_RATE = 1.0, 2.0, 250.0, 0.8
PLACES = ("there", "other")
# A lease's answer comes so much later than its tokens were taken, at times (seconds).
ANSWER_S = 0.25


@dataclass
class Rated:
    """Workers of the rated kind, one at each service, who never have enough."""

    per_s: int
    burst: int
    # When each job's lease was answered.
    times: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def at_work(self, rigs: Sequence[Rig], seconds: float) -> AsyncIterator[None]:
        """Work inside, which takes about so long."""
        for _ in range(math.ceil(2 * seconds)):
            await rigs[0].penguin.jobs.enqueue_many(uuid4(), RATED, [{}] * self.per_s)
        working = [asyncio.create_task(self._work(rig)) for rig in rigs]
        try:
            yield
        finally:
            for task in working:
                task.cancel()
            ended = await asyncio.gather(*working, return_exceptions=True)
        for each in ended:
            if not isinstance(each, asyncio.CancelledError) and isinstance(each, BaseException):
                raise each

    async def _work(self, rig: Rig) -> None:
        while True:
            leased = await rig.lease(RATED.kind, PER_LEASE, wait_s=1.0)
            self.times += [time.perf_counter()] * len(leased.jobs)
            self.ids += [each.job.id for each in leased.jobs]
            await rig.complete(leased)

    def between(self, begin: float, end: float) -> float:
        """Jobs a second then, as a share of the rate."""
        return sum(begin <= at < end for at in self.times) / (end - begin) / self.per_s

    @property
    def bound(self) -> float:
        """How many may go beyond the rate (decision 17): the burst, and one service's part for a second after Redis is back."""
        return self.burst + self.per_s / 2 + self.per_s * ANSWER_S


Samples = dict[str, list[Sample]]


async def _leases(rigs: Sequence[Rig], seconds: float) -> Samples:
    """Leases for so long, at each service in turn, of jobs that were sent to the first just before: by the place when, and how
    long it took."""
    tenant, samples = uuid4(), Samples((place, []) for place in PLACES)
    started = time.perf_counter()
    for place, rig in itertools.cycle(zip(PLACES, rigs, strict=True)):
        if (at := time.perf_counter() - started) >= seconds:
            break
        await rigs[0].penguin.jobs.enqueue_many(tenant, TERMS, [{}] * PER_LEASE)
        asked = time.perf_counter()
        leased = await rig.lease(TERMS.kind, PER_LEASE, wait_s=1.0)
        samples[place].append((at, (time.perf_counter() - asked) * 1000))
        await rig.complete(leased)
        await asyncio.sleep(PAUSE_S)
    return samples


@contextlib.asynccontextmanager
async def _second(rig: Rig) -> AsyncIterator[Rig]:
    """One more service beside the first, and a caller of it."""
    port = free_port()
    async with another_queue(rig.stack.tier_environment("queue"), port):
        values = rig.stack.environment("orchestrator") | {"QUEUE_ADDR": f"127.0.0.1:{port}"}
        async with Penguin.connect(PlatformConfig(**values)) as penguin:  # type: ignore[arg-type]
            yield Rig(rig.stack, penguin)


async def run(rig: Rig, options: Options, verdicts: Verdicts) -> dict[str, Any]:
    """Before, second by second after it was stopped, and when it goes on."""
    print(
        f"\nfrozen-redis: LeaseJobs({PER_LEASE}) at two services in turn, ms, beside {options.rated} rated jobs/s; Redis is "
        "stopped and continued",
        flush=True,
    )
    await rig.empty()
    # First of all: a service knows of a rate before its first lease, but of a new one some seconds later.
    await put_rated_queue(rig.stack, "bench-rated", RATED.kind, options.rated, options.burst)
    rated, spans = Rated(options.rated, options.burst), dict[str, tuple[float, float]]()
    async with _second(rig) as second, rated.at_work([rig, second], options.frozen + 4 * NORMAL_S):
        rigs = [rig, second]
        await _leases(rigs, 2.0)
        began = time.perf_counter()
        normal = await _leases(rigs, NORMAL_S)
        rig.stack.freeze("valkey")
        frozen = time.perf_counter()
        try:
            stopped = await _leases(rigs, options.frozen)
        finally:
            rig.stack.thaw("valkey")
        thawed = time.perf_counter()
        back = await _leases(rigs, NORMAL_S)
        spans |= {
            "before": (began, frozen),
            "frozen": (frozen + NOTICED_S, thawed),
            "after": (thawed + NOTICED_S, time.perf_counter()),
        }
    figures = _told(normal, stopped, back, verdicts)
    shares = {name: rated.between(*span) for name, span in spans.items()}
    return figures | {"rated": _told_of_rate(rated, shares, verdicts)}


def _told(before: Samples, stopped: Samples, after: Samples, verdicts: Verdicts) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for place in PLACES:
        where = "where they were sent to" if place == "there" else "at the other service"
        normal, back = _spread(before[place]), _spread(after[place])
        later = _spread([(at, latency) for at, latency in stopped[place] if at >= NOTICED_S])
        print(
            f"  leases {where}\n    normal    p50{normal.p50:>9,.2f}  p99{normal.p99:>9,.2f}  ({normal.count} leases)"
        )
        for at, spread in windows(stopped[place], WINDOW_S):
            print(f"    second{int(at) + 1:>3} p50{spread.p50:>9,.2f}  p99{spread.p99:>9,.2f}  ({spread.count} leases)")
        print(f"    back      p50{back.p50:>9,.2f}  p99{back.p99:>9,.2f}  ({back.count} leases)")
        times = ratio(later.p99, normal.p99)
        wanted = f"< {WANTED:g}x" if place == "there" else f"< {WANTED_OTHER:g} ms"
        holds = times < WANTED if place == "there" else later.p99 < WANTED_OTHER
        word = verdicts.word(f"p99 of leases {where}", holds)
        print(
            f"    p99 once it is noticed, after {NOTICED_S:g} s: {later.p99:,.2f}, {times:.2f}x, wanted {wanted}: {word}"
        )
        kept[place] = {
            "normal": asdict(normal), "after_noticed": asdict(later), "back": asdict(back), "p99_ratio": times,
            "frozen": [{"second": int(at) + 1} | asdict(spread) for at, spread in windows(stopped[place], WINDOW_S)],
        }  # fmt: skip
    return kept


def _spread(samples: Sequence[Sample]) -> Spread:
    return Spread.of([latency for _, latency in samples])


def _told_of_rate(rated: Rated, shares: dict[str, float], verdicts: Verdicts) -> dict[str, Any]:
    beyond, twice = beyond_rate(rated.times, rated.per_s), len(rated.ids) - len(set(rated.ids))
    given = min(shares["frozen"], shares["after"])
    print(f"  rated, of {rated.per_s} jobs/s: " + "  ".join(f"{name} {share:.2f}x" for name, share in shares.items()))
    word = verdicts.word("the rate that is given", given >= WANTED_RATE)
    print(f"  rated while it is away and after, wanted >= {WANTED_RATE:g}x: {given:.2f}x: {word}")
    word = verdicts.word("what goes beyond the rate", beyond <= rated.bound and not twice)
    print(
        f"  most beyond the rate: {beyond:.1f} jobs, bound {rated.bound:g}: {word}; leased twice: {twice}",
        flush=True,
    )
    return {"shares": shares, "beyond": beyond, "bound": rated.bound, "twice": twice}
