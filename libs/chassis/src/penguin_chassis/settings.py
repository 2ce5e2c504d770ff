"""Settings as the chassis takes them. Light on purpose: a tier's configuration is read before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PoolSettings:
    """Where the database is and how many connections this process may hold."""

    app_url: str = field(repr=False)
    maintenance_url: str = field(repr=False)
    max_size: int
    maintenance_max_size: int = 4
    # How long a call may wait for a connection before it is shed (seconds).
    acquire_timeout_s: float = 2.0


@dataclass(frozen=True)
class ServerSettings:
    """Where a tier listens and whom it believes. Times in seconds."""

    tier: str
    listen: str
    jwks_path: Path
    issuers: tuple[str, ...] = ()
    max_connection_age_s: int = 1800
    drain_s: float = 10.0
    # Calls that are worked on at once while several tenants are active: as many as keep one core busy beside a database that takes
    # its time, and no more than the database has connections.
    places: int = 32


@dataclass(frozen=True)
class TelemetrySettings:
    """Who we are in traces, and where they go; without an endpoint nothing is exported."""

    service_name: str
    endpoint: str = ""
    sample_ratio: float = 1.0
    log_level: str = "INFO"
