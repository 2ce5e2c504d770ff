"""Forward-only migrations, run by the owner role while old code serves.

Files are NNNN_name.sql in the tier's own package. Each runs in one transaction under lock and statement time-outs; one
runner at a time (advisory lock); an applied file must never change (checksum). It never goes back: a mistake is mended by
the next migration.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
from dataclasses import dataclass
from importlib import resources

import asyncpg

log = logging.getLogger(__name__)

_FILE = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_INCLUDE = re.compile(r"^-- include: ([a-z_.]+)/([a-z0-9_]+\.sql)\s*$", re.MULTILINE)
# One number for all: who migrates a database migrates it alone.
_LOCK = 0x70656E6775696E
LOCK_TIMEOUT = "5s"
# How long a runner waits for another one to finish.
RUNNER_TIMEOUT = "4min"
STATEMENT_TIMEOUT = "5min"
ATTEMPTS = 10
_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


class MigrationError(Exception):
    """The migrations cannot be applied as they stand."""


@dataclass(frozen=True)
class Migration:
    """One file: its number, its name and its text with includes put in."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _included(match: re.Match[str]) -> str:
    return resources.files(match[1]).joinpath(match[2]).read_text("utf-8")


def load(package: str) -> list[Migration]:
    """The migrations of `package`, in order; raises MigrationError for a gap or a name of another shape."""
    found: list[Migration] = []
    for entry in resources.files(package).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE.match(entry.name)
        if match is None:
            raise MigrationError(f"{entry.name} is not named NNNN_name.sql")
        found.append(Migration(int(match[1]), match[2], _INCLUDE.sub(_included, entry.read_text("utf-8"))))
    found.sort(key=lambda m: m.version)
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"{package}: versions must run 1, 2, 3 … without a gap")
    return found


async def migrate(owner_url: str, tier: str, migrations: list[Migration]) -> int:
    """Apply what is not applied yet; returns how many were. Waits out a database that is just starting.

    Raises MigrationError; what had been applied before it stands, and the migration at fault left nothing behind.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            connection = await asyncpg.connect(owner_url, timeout=5, statement_cache_size=0)
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
            if attempt == ATTEMPTS:
                raise MigrationError(f"the {tier} database does not answer") from None
            await asyncio.sleep(min(0.1 * 2**attempt, 3) * random.uniform(0.5, 1))
            continue
        except asyncpg.PostgresError as error:
            raise MigrationError(f"the {tier} database refuses the owner: {type(error).__name__}") from None
        try:
            return await _apply_all(connection, tier, migrations)
        finally:
            await connection.close(timeout=5)
    raise AssertionError("unreachable")


async def _apply_all(connection: asyncpg.Connection[asyncpg.Record], tier: str, migrations: list[Migration]) -> int:
    await connection.execute(f"SET lock_timeout = '{RUNNER_TIMEOUT}'; SET statement_timeout = '{STATEMENT_TIMEOUT}'")
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    except asyncpg.LockNotAvailableError:
        raise MigrationError(f"another runner has been migrating {tier} for {RUNNER_TIMEOUT}") from None
    await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    await connection.execute(_HISTORY)
    await connection.execute(f'GRANT SELECT ON schema_migrations TO "{tier}_app", "{tier}_maintenance"')
    applied = {r["version"]: r["checksum"] for r in await connection.fetch("SELECT * FROM schema_migrations")}
    count = 0
    for migration in migrations:
        if migration.version in applied:
            if applied[migration.version] != migration.checksum:
                raise MigrationError(f"{tier} migration {migration.version} was changed after it was applied")
            continue
        await _apply(connection, tier, migration)
        log.info("applied migration %s %04d_%s", tier, migration.version, migration.name)
        count += 1
    return count


async def _apply(connection: asyncpg.Connection[asyncpg.Record], tier: str, migration: Migration) -> None:
    named = f"{tier} migration {migration.version:04d}_{migration.name}"
    try:
        async with connection.transaction():
            await connection.execute(migration.text)
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                migration.version, migration.name, migration.checksum,
            )  # fmt: skip
    except asyncpg.LockNotAvailableError:
        raise MigrationError(f"{named} did not get its locks within {LOCK_TIMEOUT}: run it again") from None
    except asyncpg.PostgresError as error:
        # The server's first line names objects of the schema; what holds data stands in its detail, and stays there.
        raise MigrationError(f"{named} failed: {error.args[0] if error.args else type(error).__name__}") from None
