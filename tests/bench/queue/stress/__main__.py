"""`make bench-queue-stress`: `python -m tests.bench.queue.stress [scenario …] [SECONDS=180 …]`; all scenarios unless some
are named. Figures are added to those of earlier runs as each scenario ends."""

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
from tests.bench.queue.stress.options import Options, parsed
from tests.bench.queue.stress.rig import Rig, as_json, revision, rig

RESULTS = Path(".local") / "bench" / "queue-stress.json"
SCENARIOS: dict[str, Callable[[Rig, Options], Awaitable[dict[str, Any]]]] = {
    "held-xmin": held_xmin.run,
    "backlog": backlog.run,
    "fairness": fairness.run,
    "ageing": ageing.run,
    "frozen-redis": frozen_redis.run,
}


def _keep(scenario: str, options: Options, figures: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[scenario] = {"revision": revision(), "options": asdict(options), "settings": SETTINGS, "figures": figures}
    RESULTS.write_text(as_json(kept))


async def _main(names: Sequence[str], options: Options) -> None:
    task = asyncio.current_task()
    if task is not None:
        # As an interrupt: servers and folders go away with us.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    print("starting servers", flush=True)
    async with rig() as running:
        for name in names:
            _keep(name, options, await SCENARIOS[name](running, options))
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    try:
        chosen, given = parsed(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
    if unknown := set(chosen) - set(SCENARIOS):
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    try:
        uvloop.run(_main(chosen or list(SCENARIOS), given))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("interrupted; everything it started is gone")
