"""Runs of histories on databases of their own: what became of them, one by one and in all."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import logging
import multiprocessing
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event

from tests.simulation import clock
from tests.simulation.guards import GUARDS
from tests.simulation.history import Story, history
from tests.simulation.tiers import TIERS, World, world

from penguin_devstack.postgres import temporary_cluster
from penguin_testkit.databases import Databases

# Nothing is lost with a database that is thrown away, nobody looks at what it does, and nothing goes on in it by itself: what is
# planned anew once a table was analysed would be so at another moment in each run.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "80",
    "jit": "off",
    "autovacuum": "off",
    "track_activities": "off",
    "track_counts": "off",
    "update_process_title": "off",
}
# After so many histories their dead rows are taken away.
TIDY = 500
# How often a run says how far it is, in histories.
PROGRESS = 250
# So many objects may be new before the collector looks at them: a history leaves few of them in rings.
NEW_OBJECTS = 20_000
_now = time.perf_counter
_stop: Event | None = None


@dataclass
class Run:
    """What became of a run of histories."""

    stories: int = 0
    wrong: list[Story] = field(default_factory=list)
    mishaps: int = 0
    killed: int = 0
    acts: int = 0
    statements: int = 0
    virtual_s: float = 0.0
    seconds: float = 0.0
    cpu_s: float = 0.0

    def add(self, story: Story) -> None:
        """One more."""
        self.stories += 1
        self.mishaps += story.mishaps
        self.killed += story.killed
        self.acts += len(story.acts)
        self.statements += story.statements
        self.virtual_s += story.virtual_s
        if story.violations:
            self.wrong.append(story)

    def merge(self, other: Run) -> None:
        """Another run, which went on at the same time."""
        self.wrong += other.wrong
        self.seconds = max(self.seconds, other.seconds)
        for name in ("stories", "mishaps", "killed", "acts", "statements", "virtual_s", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __str__(self) -> str:
        return (
            f"{self.stories} histories in {self.seconds:.1f} s ({self.stories / max(self.seconds, 1e-9):.1f}/s, of processor"
            f" time {self.cpu_s:.1f} s without the databases'): {self.acts} acts, {self.mishaps} mishaps, {self.killed} processes killed, {self.statements} statements,"
            f" {self.virtual_s / 3600:.1f} hours; {len(self.wrong)} with violations"
        )


@contextlib.contextmanager
def migrated() -> Iterator[Databases]:
    """A cluster with the tiers' databases, to be thrown away."""
    with temporary_cluster(settings=SETTINGS) as cluster:
        databases = Databases(cluster)
        asyncio.run(_make(databases))
        yield databases


async def _make(databases: Databases) -> None:
    for tier in TIERS:
        await databases.template(tier)


def run(
    databases: Databases,
    seeds: Sequence[int],
    *,
    without: str = "",
    stop: int = 3,
    lived: Callable[[Run, Story], object] = lambda done, story: None,
) -> Run:
    """Live through these histories on databases of their own, `without` one of the guards; gives up after so many that went
    wrong. Whoever asks hears of each, and of those so far, once it has been `lived`."""
    done = Run()
    loop = clock.VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_all(loop, databases, seeds, done, without, stop, lived))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return done


async def _all(
    loop: clock.VirtualLoop,
    databases: Databases,
    seeds: Sequence[int],
    done: Run,
    without: str,
    stop: int,
    lived: Callable[[Run, Story], object],
) -> None:
    # The databases' names are drawn, too.
    random.seed()
    with clock.on(loop):
        async with world(loop, databases) as here, contextlib.AsyncExitStack() as guards:
            if without:
                loop.busy += 1
                await guards.enter_async_context(GUARDS[without](here))
                loop.busy -= 1
            began, worked = _now(), clock.real_process_time()
            # What is imported stays: it need not be looked through again and again for what is left.
            gc.freeze()
            gc.set_threshold(NEW_OBJECTS)
            for seed in seeds:
                if done.stories and done.stories % TIDY == 0:
                    await here.tidy()
                story = await _lived(here, seed)
                done.add(story)
                done.seconds, done.cpu_s = _now() - began, clock.real_process_time() - worked
                lived(done, story)
                if len(done.wrong) >= stop or story.broken_off or (_stop is not None and _stop.is_set()):
                    return


async def _lived(here: World, seed: int) -> Story:
    try:
        return await history(here, seed)
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw is a violation, too
        traceback.print_exception(error)
        return Story(seed, [f"broke off: {error!r}"], record=list(here.network.record), broken_off=True)


def tell(story: Story, *, whole: bool) -> None:
    """Print what was wrong, and what had been done."""
    if whole:
        print(*story.record, sep="\n")
    print(f"seed {story.seed}: {len(story.violations)} violations")
    print(*(f"  {each}" for each in story.violations), sep="\n")
    print(*(f"    {each}" for each in story.acts), sep="\n")


def tell_of(seeds: Sequence[int], done: Run, story: Story) -> None:
    """Print what went wrong at once, and now and then how far it is."""
    if story.violations:
        tell(story, whole=False)
    if done.stories % PROGRESS == 0:
        wrong = f"{len(done.wrong)} with violations"
        print(f"from {seeds[0]}: {done.stories} of {len(seeds)} histories, {wrong}, {done.seconds:.0f} s", flush=True)


def part(seeds: Sequence[int], *, without: str = "", say: bool = False) -> Run:
    """A run on a cluster of its own, which says how far it is; or, asked to, all that happened."""
    with migrated() as databases:
        lived = (lambda _, story: tell(story, whole=True)) if say else functools.partial(tell_of, seeds)
        return run(databases, seeds, without=without, lived=lived)


def begin(stop: Event) -> None:
    """Make this process one for histories: it gives up once it is told to `stop`, between two of them, as it has databases to put
    away."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the tiers say of the weather is no news.
    logging.getLogger().addHandler(logging.NullHandler())


@contextlib.contextmanager
def interruptible(stop: Event) -> Iterator[Event]:
    """Ctrl-C ends the runs after the history they are at, and what they have done so far is told."""
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def side_by_side(first: int, count: int, processes: int) -> Run:
    """The same histories in several processes."""
    share = -(-count // processes)
    parts = [range(at, min(at + share, first + count)) for at in range(first, first + count, share)]
    done = Run()
    context = multiprocessing.get_context("spawn")
    with (
        interruptible(context.Event()) as stop,
        concurrent.futures.ProcessPoolExecutor(processes, context, begin, (stop,)) as pool,
    ):
        for each in pool.map(part, parts):
            done.merge(each)
    return done
