"""`python -m penguin_queue serve | migrate`."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from penguin_chassis.main import run
from penguin_queue.config import TIER, MigrateConfig, QueueConfig, TelemetryConfig


def _serving() -> contextlib.AbstractAsyncContextManager[Any]:
    # A migration needs no server: what only a server needs is imported by one.
    from penguin_queue.app import serving

    return serving(QueueConfig())


def main() -> int:
    """Entry point; returns the exit status."""
    return run(
        TIER,
        serving=_serving,
        owner_url=lambda: MigrateConfig().owner_db_url,
        migrations_package="penguin_queue.migrations",
        telemetry_settings=lambda: TelemetryConfig().settings(),
    )


if __name__ == "__main__":
    sys.exit(main())
