"""`python -m penguin_worker`: runs jobs until it is told to stop."""

from __future__ import annotations

import asyncio
import os
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
        await work(penguin.tiers, config, stopped, _hung)


def _hung() -> None:
    # Whoever runs us starts another; nothing that would have to wait for the event loop can be done any more.
    os._exit(os.EX_SOFTWARE)


def main() -> int:
    """Entry point; returns the exit status."""
    config = WorkerConfig()
    with telemetry(config.telemetry()):
        uvloop.run(_main(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
