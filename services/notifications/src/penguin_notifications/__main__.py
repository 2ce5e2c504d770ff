"""`python -m penguin_notifications serve | migrate`."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from penguin_chassis.main import run
from penguin_notifications.config import TIER, MigrateConfig, NotificationsConfig, TelemetryConfig


def _serving() -> contextlib.AbstractAsyncContextManager[Any]:
    # A migration needs no server: what only a server needs is imported by one.
    from penguin_notifications.app import serving

    return serving(NotificationsConfig())


def main() -> int:
    """Entry point; returns the exit status."""
    return run(
        TIER,
        serving=_serving,
        owner_url=lambda: MigrateConfig().owner_db_url,
        migrations_package="penguin_notifications.migrations",
        telemetry_settings=lambda: TelemetryConfig().settings(),
    )


if __name__ == "__main__":
    sys.exit(main())
