"""Where a local stack keeps its things, which ports and passwords it remembers between runs, and what it was asked to
run. It starts nothing."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from penguin_devstack.issuer import TIERS
from penguin_devstack.ports import LOOPBACK, free_port, is_free, lease
from penguin_devstack.postgres import PostgresCluster
from penguin_devstack.roles import TierDatabase, TierPasswords, tier_database
from penguin_devstack.valkey import ValkeyServer

WORKLOADS = ("relay", "worker", "cli", "orchestrator")
_FIXTURES = ("valkey", "smtp", "otlp", "issuer")


class NeverUpError(RuntimeError):
    """Ports and passwords are chosen when a stack first comes up."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to run. `environment` adds variables to components by name."""

    tiers: Sequence[str] = TIERS
    with_services: bool = True
    with_workers: bool = True
    workers: int = 1
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    database_settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.tiers) - set(TIERS)
        if unknown:
            raise ValueError(f"no such tiers: {sorted(unknown)}")
        if self.with_workers and self.with_services and set(self.tiers) != set(TIERS):
            raise ValueError("relay and worker need all five tiers; ask for with_workers=False")

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"tiers": list(self.tiers)}


class Layout:
    """The files below `root`, and the servers they belong to."""

    def __init__(self, root: Path, options: StackOptions) -> None:
        self.root = root.absolute()
        self.options = options
        self._ports: dict[str, int] = {}

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def smtp_store(self) -> Path:
        return self.root / "smtp"

    @property
    def otlp_store(self) -> Path:
        return self.root / "otlp"

    @property
    def issuer_dir(self) -> Path:
        return self.root / "issuer"

    @property
    def jwks_path(self) -> Path:
        return self.issuer_dir / "jwks.json"

    def credential_path(self, workload: str) -> Path:
        return self.issuer_dir / "workloads" / workload

    @property
    def erasure_key_path(self) -> Path:
        """The key of the ledger of erasures: in another place than what it seals."""
        return self.root / "keys" / "erasures"

    def log_path(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def cluster(self, tier: str) -> PostgresCluster:
        """The tier's PostgreSQL cluster, running or not."""
        name = f"{tier}-db"
        data_dir = self.root / "postgres" / tier
        return PostgresCluster(data_dir, self.port(name), self.options.database_settings, self.log_path(name))

    def valkey(self) -> ValkeyServer:
        return ValkeyServer(self.root / "valkey", self.port("valkey"), self.log_path("valkey"))

    def database(self, tier: str) -> TierDatabase:
        """The tier's database as each of its roles; the URLs hold passwords."""
        return tier_database(self.cluster(tier), tier, self.passwords(tier))

    def address(self, component: str) -> str:
        return f"{LOOPBACK}:{self.port(component)}"

    def port(self, component: str) -> int:
        """The port that assign_ports() chose. Raises NeverUpError where it has not."""
        if component not in self._ports:
            self._ports = self._read("ports.json")
        if component not in self._ports:
            raise NeverUpError(f"the stack in {self.root} has never been up")
        return self._ports[component]

    def assign_ports(self) -> None:
        """Choose a port for everything, keeping remembered ones that nobody else has taken meanwhile."""
        remembered: dict[str, int] = self._read("ports.json")
        for component in [*_FIXTURES, *(name for tier in TIERS for name in (tier, f"{tier}-db"))]:
            port = remembered.get(component)
            if port is None or not lease(port) or not is_free(port):
                remembered[component] = free_port(avoid=remembered.values())
        self._ports = remembered
        self._write("ports.json", remembered)

    def passwords(self, tier: str) -> TierPasswords:
        """The tier's role passwords. Raises NeverUpError before ensure_passwords()."""
        known = self._read("secrets.json")
        if tier not in known:
            raise NeverUpError(f"the stack in {self.root} has never been up")
        return TierPasswords(**known[tier])

    def ensure_passwords(self) -> None:
        """Make up what passwords are missing."""
        known = self._read("secrets.json")
        for tier in TIERS:
            known.setdefault(tier, asdict(TierPasswords.generate()))
        self._write("secrets.json", known)
        if not self.erasure_key_path.exists():
            self.erasure_key_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.erasure_key_path.touch(mode=0o600)
            self.erasure_key_path.write_text(secrets.token_hex(32) + "\n")

    def client_environment(self, workload: str) -> dict[str, str]:
        """What a client of the tiers is told: addresses, where its tokens come from, SMTP, telemetry."""
        addresses = {f"{tier.upper()}_ADDR": self.address(tier) for tier in self.options.tiers}
        return {
            **addresses,
            **self.telemetry_environment(f"penguin-{workload}"),
            "PENGUIN_TOKEN_URL": f"http://{self.address('issuer')}/token",
            "PENGUIN_WORKLOAD_CREDENTIAL_PATH": str(self.credential_path(workload)),
            "PENGUIN_JWKS_PATH": str(self.jwks_path),
            "ERASURE_LEDGER_PATH": str(self.root / "erasures" / "ledger"),
            "ERASURE_LEDGER_COPY_PATH": str(self.root / "erasures" / "copy"),
            "ERASURE_LEDGER_KEY_PATH": str(self.erasure_key_path),
            "SMTP_HOST": LOOPBACK,
            "SMTP_PORT": str(self.port("smtp")),
        }

    def tier_environment(self, tier: str) -> dict[str, str]:
        """What a tier's serving process is told. The owner's URL is not in it."""
        database = self.database(tier)
        return {
            **self.telemetry_environment(f"penguin-{tier}"),
            f"{tier.upper()}_DB_URL": database.app_url,
            f"{tier.upper()}_MAINTENANCE_DB_URL": database.maintenance_url,
            f"{tier.upper()}_LISTEN": self.address(tier),
            "QUEUE_REDIS_URL": self.valkey().url,
            "PENGUIN_JWKS_PATH": str(self.jwks_path),
        }

    def telemetry_environment(self, service: str) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.address('otlp')}", "OTEL_SERVICE_NAME": service}

    def data_dirs(self) -> list[Path]:
        """The data directories of all tiers, whichever of them run."""
        return [self.root / "postgres" / tier for tier in TIERS]

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.root / name).read_text())
        except FileNotFoundError:
            return {}
        return dict(found)

    def _write(self, name: str, content: object) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        partial = self.root / f".{name}.{os.getpid()}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
        partial.replace(self.root / name)
