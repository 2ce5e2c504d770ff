"""`python -m penguin_worker`: runs jobs until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from penguin_chassis.telemetry import telemetry
from penguin_orchestrator.platform import Penguin
from penguin_worker.config import WorkerConfig
from penguin_worker.process import work


async def _main(config: WorkerConfig) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with Penguin.connect() as penguin:
        await work(penguin.tiers, config, stopped)


def main() -> int:
    """Entry point; returns the exit status."""
    config = WorkerConfig()
    with telemetry(config.telemetry()):
        uvloop.run(_main(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
