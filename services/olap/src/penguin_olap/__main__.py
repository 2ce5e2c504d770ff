"""`python -m penguin_olap serve | migrate`."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from penguin_chassis.main import run
from penguin_olap.config import TIER, MigrateConfig, OlapConfig, TelemetryConfig


def _serving() -> contextlib.AbstractAsyncContextManager[Any]:
    # A migration needs no server: what only a server needs is imported by one.
    from penguin_olap.app import serving

    return serving(OlapConfig())


def main() -> int:
    """Entry point; returns the exit status."""
    return run(
        TIER,
        serving=_serving,
        owner_url=lambda: MigrateConfig().owner_db_url,
        migrations_package="penguin_olap.migrations",
        telemetry_settings=lambda: TelemetryConfig().settings(),
    )


if __name__ == "__main__":
    sys.exit(main())
