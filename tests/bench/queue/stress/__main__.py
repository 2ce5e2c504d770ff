"""`make bench-queue-stress`: `python -m tests.bench.queue.stress [scenario …] [SECONDS=180 …]`; all scenarios unless some
are named. Figures are added to those of earlier runs as each scenario ends. Exits with 1 where something falls short."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop
from tests.bench.queue.servers import SETTINGS
from tests.bench.queue.stress import ageing, backlog, fairness, frozen_redis, held_xmin
from tests.bench.queue.stress.maths import Verdicts
from tests.bench.queue.stress.options import Options, parsed
from tests.bench.queue.stress.rig import Rig, as_json, revision, rig

RESULTS = Path(".local") / "bench" / "queue-stress.json"
SCENARIOS: dict[str, Callable[[Rig, Options, Verdicts], Awaitable[dict[str, Any]]]] = {
    "held-xmin": held_xmin.run,
    "backlog": backlog.run,
    "fairness": fairness.run,
    "ageing": ageing.run,
    "frozen-redis": frozen_redis.run,
}


def _keep(scenario: str, options: Options, figures: dict[str, Any], short: Sequence[str]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[scenario] = {
        "revision": revision(), "options": asdict(options), "settings": SETTINGS, "figures": figures, "falls_short": short,
    }  # fmt: skip
    RESULTS.write_text(as_json(kept))


async def _main(names: Sequence[str], options: Options) -> int:
    """All scenarios that are named, each to its end whatever falls short before; the exit status."""
    task = asyncio.current_task()
    if task is not None:
        # As an interrupt: servers and folders go away with us.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print("starting servers", flush=True)
    short: list[str] = []
    async with rig() as running:
        for name in names:
            verdicts = Verdicts()
            figures = await SCENARIOS[name](running, options, verdicts)
            _keep(name, options, figures, verdicts.short)
            short += [f"{name}, {each}" for each in verdicts.short]
    print(f"\nwritten to {RESULTS}")
    return ended(short)


def ended(short: Sequence[str]) -> int:
    """Say what falls short, all of it at the end; the exit status."""
    for each in short:
        print(f"FALLS SHORT: {each}")
    return int(bool(short))


if __name__ == "__main__":
    try:
        chosen, given = parsed(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
    if unknown := set(chosen) - set(SCENARIOS):
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    try:
        sys.exit(uvloop.run(_main(chosen or list(SCENARIOS), given)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted; everything it started is gone")
