"""Histories, one after the other: `python -m tests.simulation HISTORIES=1000 SEED=0`. Exits with 1 where one went wrong, and says
which; `SEED=n HISTORIES=1` lives through it again, and `SAY=1` tells all that happened. `TEETH=1` switches each guard off in turn,
`WITHOUT=barrier` one of them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from tests.simulation.guards import BEGINS, GUARDS
from tests.simulation.running import migrated, part, run, side_by_side

from penguin_testkit.databases import Databases


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


def main(arguments: Sequence[str]) -> int:
    """Run; the exit status."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of texts go by it, and with them the order of what happens.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *arguments],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    logging.getLogger().addHandler(logging.NullHandler())
    options = dict(argument.partition("=")[::2] for argument in arguments)
    first, count = int(options.get("SEED", 0)), int(options.get("HISTORIES", 100))
    processes = int(options.get("PROCESSES", 1))
    seeds = range(first, first + count)
    if "TEETH" in options:
        with migrated() as databases:
            return 0 if teeth(databases, seeds, options.get("WITHOUT", "")) else 1
    if "SAY" in options or "WITHOUT" in options:
        done = part(seeds, without=options.get("WITHOUT", ""), say="SAY" in options)
    else:
        done = side_by_side(first, count, min(processes, count))
    print(done)
    for story in done.wrong:
        print(f"again: make simulate HISTORIES=1 SEED={story.seed}")
    if done.stories < count and not done.wrong:
        print(f"interrupted after {done.stories} of {count}")
    return 1 if done.stories < count or done.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
