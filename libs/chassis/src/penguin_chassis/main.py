"""What a tier's process does: `serve` until told to stop, `migrate`, and `restored`, once, after a restore."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import uvloop

from penguin_chassis import memory, restoring
from penguin_chassis import migrate as migrations
from penguin_chassis.settings import TelemetrySettings
from penguin_chassis.signals import until_stopped
from penguin_chassis.telemetry import telemetry

log = logging.getLogger(__name__)

Serving = Callable[[], contextlib.AbstractAsyncContextManager[Any]]


def run(
    tier: str,
    *,
    serving: Serving,
    owner_url: Callable[[], str],
    migrations_package: str,
    telemetry_settings: Callable[[], TelemetrySettings],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line and do it; returns the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m penguin_{tier}", description=f"The {tier} tier.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve until SIGTERM or SIGINT, then drain")
    commands.add_parser("migrate", help="bring the database to this version's schema")
    commands.add_parser("restored", help="say that the database was restored: before it is served")
    command = parser.parse_args(argv).command
    with telemetry(telemetry_settings()):
        if command == "migrate":
            return uvloop.run(_migrate(tier, owner_url(), migrations_package))
        if command == "restored":
            return uvloop.run(_restored(tier, owner_url()))
        return uvloop.run(_serve(serving))


async def _serve(serving: Serving) -> int:
    stopped = asyncio.create_task(until_stopped(signal.SIGTERM, signal.SIGINT))
    async with serving():
        memory.settle()
        await stopped
    return 0


async def _restored(tier: str, owner_url: str) -> int:
    try:
        incarnation = await restoring.mark_as_owner(owner_url)
    except (OSError, asyncpg.PostgresError) as error:
        log.error("the %s database was not marked: %s", tier, type(error).__name__)
        return 1
    print(f"{tier}: incarnation {incarnation}, to be replayed into")  # noqa: T201 - what a Job's log shows
    return 0


async def _migrate(tier: str, owner_url: str, package: str) -> int:
    try:
        count = await migrations.migrate(owner_url, tier, migrations.load(package))
    except migrations.MigrationError as error:
        log.error("%s", error)
        return 1
    log.info("%s: %d migrations applied", tier, count)
    print(f"{tier}: {count} migrations applied", file=sys.stdout)  # noqa: T201 - what a Job's log shows
    return 0
