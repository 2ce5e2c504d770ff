"""Histories, one after the other: `python -m tests.simulation HISTORIES=1000 SEED=0`. Exits with 1 where one went wrong, and says
which; `SEED=n HISTORIES=1` lives through it again, and `SAY=1` tells all that happened. `TEETH=1` switches each guard off in turn,
`WITHOUT=barrier` one of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.simulation import clock
from tests.simulation.guards import BEGINS, GUARDS
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
# So many objects may be new before the collector looks at them: a history leaves few of them in rings.
NEW_OBJECTS = 20_000
_now = time.perf_counter


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


def run(databases: Databases, seeds: Sequence[int], *, without: str = "", stop: int = 3, say: bool = False) -> Run:
    """Live through these histories on databases of their own, `without` one of the guards; gives up after so many that went
    wrong."""
    done = Run()
    loop = clock.VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_all(loop, databases, seeds, done, without, stop, say))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return done


async def _all(
    loop: clock.VirtualLoop, databases: Databases, seeds: Sequence[int], done: Run, without: str, stop: int, say: bool
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
                if say or (story.violations and not without):
                    tell(story, whole=say)
                if len(done.wrong) >= stop or story.broken_off:
                    return


async def _lived(here: World, seed: int) -> Story:
    try:
        return await history(here, seed)
    except Exception as error:  # noqa: BLE001 - whatever nobody foresaw is a violation, too
        traceback.print_exception(error)
        return Story(seed, [f"broke off: {error!r}"], record=list(here.network.record), broken_off=True)


def teeth(databases: Databases, seeds: Sequence[int], only: str = "") -> bool:
    """Switch each guard off, and see in which history that is found; whether all were, within so many."""
    missed = []
    for guard in GUARDS if not only else [only]:
        first = seeds[0] + BEGINS.get(guard, 0)
        done = run(databases, range(first, first + len(seeds)), without=guard, stop=1)
        if done.wrong:
            seed = done.wrong[0].seed
            print(
                f"without {guard}: found in history {seed}, after {seed - first} others: {done.wrong[0].violations[0]}",
                flush=True,
            )
        else:
            missed.append(guard)
            print(f"without {guard}: nothing found in {done.stories} histories", flush=True)
    return not missed


def tell(story: Story, *, whole: bool) -> None:
    """Print what was wrong, and what had been done."""
    if whole:
        print(*story.record, sep="\n")
    print(f"seed {story.seed}: {len(story.violations)} violations")
    print(*(f"  {each}" for each in story.violations), sep="\n")
    print(*(f"    {each}" for each in story.acts), sep="\n")


def side_by_side(first: int, count: int, processes: int) -> int:
    """The same histories in several processes; the worst exit status of theirs."""
    share = -(-count // processes)
    parts = [range(at, min(at + share, first + count)) for at in range(first, first + count, share)]
    running = [
        subprocess.Popen([sys.executable, "-m", "tests.simulation", f"SEED={part.start}", f"HISTORIES={len(part)}"])
        for part in parts
    ]
    return max(process.wait() for process in running)


def main(arguments: Sequence[str]) -> int:
    """Run; the exit status."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of texts go by it, and with them the order of what happens.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *arguments],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    options = dict(argument.partition("=")[::2] for argument in arguments)
    first, count = int(options.get("SEED", 0)), int(options.get("HISTORIES", 100))
    processes = int(options.get("PROCESSES", 1))
    if processes > 1 and "TEETH" not in options:
        return side_by_side(first, count, processes)
    seeds = range(first, first + count)
    with migrated() as databases:
        if "TEETH" in options:
            return 0 if teeth(databases, seeds, options.get("WITHOUT", "")) else 1
        done = run(databases, seeds, without=options.get("WITHOUT", ""), say=bool(options.get("SAY")))
    print(done)
    for story in done.wrong:
        print(f"again: make simulate HISTORIES=1 SEED={story.seed}")
    return 1 if done.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
