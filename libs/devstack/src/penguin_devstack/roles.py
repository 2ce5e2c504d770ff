"""Gives a tier its database and its four login roles by running `roles.sql` with psql, the same file that production
runs. It creates no tables: migrations do."""

from __future__ import annotations

import asyncio
import importlib.resources
import re
import secrets
from dataclasses import dataclass, field

from penguin_devstack import pgbinaries
from penguin_devstack.ports import LOOPBACK
from penguin_devstack.postgres import SUPERUSER, PostgresCluster

_TIMEOUT_S = 30.0
_TIER_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


class ProvisioningError(RuntimeError):
    """psql refused a statement; the text is psql's own."""


@dataclass(frozen=True, slots=True)
class TierPasswords:
    """The four roles' passwords. Long random ones: the clusters stretch no keys."""

    owner: str = field(repr=False)
    app: str = field(repr=False)
    maintenance: str = field(repr=False)
    readonly: str = field(repr=False)

    @classmethod
    def generate(cls) -> TierPasswords:
        return cls(*(secrets.token_urlsafe(24) for _ in range(4)))


@dataclass(frozen=True, slots=True)
class TierDatabase:
    """Where a tier's database is, once for each role, as `postgresql://` URLs that hold passwords."""

    tier: str
    database: str
    owner_url: str = field(repr=False)
    app_url: str = field(repr=False)
    maintenance_url: str = field(repr=False)
    readonly_url: str = field(repr=False)


async def provision_tier(cluster: PostgresCluster, tier: str, passwords: TierPasswords | None = None) -> TierDatabase:
    """Create database `penguin_<tier>` and roles `<tier>_owner|app|maintenance|readonly`, or bring them up to date.

    Safe to run again; the passwords become the given ones (new random ones by default). Raises ProvisioningError.
    """
    if not _TIER_NAME.fullmatch(tier):
        raise ValueError(f"not a tier's name: {tier!r}")
    passwords = passwords or TierPasswords.generate()
    await _run_psql(cluster, tier, passwords)
    return tier_database(cluster, tier, passwords)


def tier_database(cluster: PostgresCluster, tier: str, passwords: TierPasswords) -> TierDatabase:
    """The URLs that provision_tier() returns, without touching the server."""
    database = f"penguin_{tier}"
    return TierDatabase(
        tier=tier,
        database=database,
        owner_url=cluster.dsn(f"{tier}_owner", passwords.owner, database),
        app_url=cluster.dsn(f"{tier}_app", passwords.app, database),
        maintenance_url=cluster.dsn(f"{tier}_maintenance", passwords.maintenance, database),
        readonly_url=cluster.dsn(f"{tier}_readonly", passwords.readonly, database),
    )


async def _run_psql(cluster: PostgresCluster, tier: str, passwords: TierPasswords) -> None:
    environment = pgbinaries.program_environment() | {
        "PGHOST": LOOPBACK,
        "PGPORT": str(cluster.port),
        "PGUSER": SUPERUSER,
        "PGPASSWORD": cluster.superuser_password(),
        "PGDATABASE": "postgres",
        "PGCONNECT_TIMEOUT": "10",
        "OWNER_PASSWORD": passwords.owner,
        "APP_PASSWORD": passwords.app,
        "MAINTENANCE_PASSWORD": passwords.maintenance,
        "READONLY_PASSWORD": passwords.readonly,
    }
    script = importlib.resources.files("penguin_devstack").joinpath("roles.sql").read_bytes()
    process = await asyncio.create_subprocess_exec(
        str(pgbinaries.bin_dir() / "psql"),
        "--no-psqlrc",
        "--quiet",
        "-v",
        f"tier={tier}",
        "-f",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            _, errors = await process.communicate(script)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ProvisioningError(f"provisioning {tier} took longer than {_TIMEOUT_S:.0f} s") from None
    if process.returncode != 0:
        raise ProvisioningError(f"provisioning {tier}: {errors.decode(errors='replace').strip()}")
