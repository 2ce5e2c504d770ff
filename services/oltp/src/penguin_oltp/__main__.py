"""`python -m penguin_oltp serve | migrate`."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from penguin_chassis.main import run
from penguin_oltp.config import TIER, MigrateConfig, OltpConfig, TelemetryConfig


def _serving() -> contextlib.AbstractAsyncContextManager[Any]:
    # A migration needs no server: what only a server needs is imported by one.
    from penguin_oltp.app import serving

    return serving(OltpConfig())


def main() -> int:
    """Entry point; returns the exit status."""
    return run(
        TIER,
        serving=_serving,
        owner_url=lambda: MigrateConfig().owner_db_url,
        migrations_package="penguin_oltp.migrations",
        telemetry_settings=lambda: TelemetryConfig().settings(),
    )


if __name__ == "__main__":
    sys.exit(main())
