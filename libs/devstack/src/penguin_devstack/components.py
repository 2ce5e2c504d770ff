"""The parts of the local stack as specifications for the supervisor. Services, relay and workers are known by module
name only: nothing of them is imported."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from penguin_devstack.issuer import Issuer, provision_workload
from penguin_devstack.layout import WORKLOADS, Layout
from penguin_devstack.pgbinaries import program_environment
from penguin_devstack.probes import accepts_connections, serves_grpc
from penguin_devstack.roles import provision_tier
from penguin_devstack.supervisor import Probe, ProcessSpec, Spec, TaskSpec
from penguin_devstack.valkey import answers_ping

# What a developer's own shell may say of other servers must not reach the stack.
_FOREIGN_PREFIXES = ("PG", "OTEL_EXPORTER_", "OTEL_SERVICE_")
_FOREIGN_SUFFIXES = ("_DB_URL", "_ADDR", "_REDIS_URL")
_COPIES_AT_ONCE = 4


def specifications(layout: Layout) -> list[Spec]:
    """Everything the layout's options ask for, in no particular order."""
    options = layout.options
    specs: list[Spec] = [
        TaskSpec("keys", lambda: asyncio.to_thread(_create_keys, layout)),
        TaskSpec("clusters", lambda: asyncio.to_thread(_create_clusters, layout)),
        *_fixtures(layout),
    ]
    for tier in options.tiers:
        specs += [_database(layout, tier), _provisioning(layout, tier)]
        if options.with_services:
            specs += _service(layout, tier)
    if options.with_services and options.with_workers:
        specs += [_client(layout, "relay", "relay", "penguin_orchestrator.relay")]
        names = ["worker", *(f"worker-{number}" for number in range(2, options.workers + 1))]
        specs += [_client(layout, name, "worker", "penguin_worker") for name in names]
    return specs


def _create_keys(layout: Layout) -> None:
    Issuer(layout.issuer_dir)
    for workload in WORKLOADS:
        provision_workload(layout.issuer_dir, workload)


def _create_clusters(layout: Layout) -> None:
    """Create the data directories that are missing: one by initdb, the others as copies of it, which is faster."""
    clusters = [layout.cluster(tier) for tier in layout.options.tiers]
    missing = [cluster for cluster in clusters if not cluster.initialised]
    for cluster in clusters:
        if cluster.initialised:
            cluster.init()
    if missing:
        missing[0].init()
    with ThreadPoolExecutor(_COPIES_AT_ONCE) as pool:
        for copied in [pool.submit(cluster.init, missing[0].data_dir) for cluster in missing[1:]]:
            copied.result()


def _fixtures(layout: Layout) -> list[Spec]:
    valkey = layout.valkey()

    async def valkey_ready() -> bool:
        return await asyncio.to_thread(answers_ping, valkey.port)

    smtp = ("penguin_devstack.smtp", "--store", str(layout.smtp_store))
    otlp = ("penguin_devstack.otlp", "--store", str(layout.otlp_store))
    issuer = ("penguin_devstack.issuer", "--dir", str(layout.issuer_dir))
    return [
        ProcessSpec(
            "valkey", valkey.command(), _environment(layout, "valkey"), layout.log_path("valkey"), ready=valkey_ready,
            port=valkey.port, prepare=valkey.prepare,
        ),
        _module(layout, "smtp", smtp, ready=_listens(layout, "smtp")),
        _module(layout, "otlp", otlp, ready=_listens(layout, "otlp")),
        _module(layout, "issuer", issuer, ready=_listens(layout, "issuer"), depends_on=("keys",)),
    ]  # fmt: skip


def _database(layout: Layout, tier: str) -> Spec:
    cluster, name = layout.cluster(tier), f"{tier}-db"

    async def ready() -> bool:
        return cluster.ready

    return ProcessSpec(
        name,
        cluster.command(),
        program_environment(),
        layout.log_path(name),
        ready=ready,
        depends_on=("clusters",),
        port=cluster.port,
        # PostgreSQL's "fast" shutdown; SIGTERM would wait for every client to leave.
        stop_signal=signal.SIGINT,
        prepare=cluster.prepare,
    )


def _provisioning(layout: Layout, tier: str) -> Spec:
    async def provision() -> None:
        await provision_tier(layout.cluster(tier), tier, layout.passwords(tier))

    return TaskSpec(f"provision-{tier}", provision, depends_on=(f"{tier}-db",))


def _service(layout: Layout, tier: str) -> list[Spec]:
    migrate, module, port = f"migrate-{tier}", f"penguin_{tier}", layout.port(tier)
    environment = layout.tier_environment(tier)
    owner = {f"{tier.upper()}_OWNER_DB_URL": layout.database(tier).owner_url}
    needs = (migrate, "issuer", *(("valkey",) if tier == "queue" else ()))
    return [
        ProcessSpec(
            migrate, [sys.executable, "-m", module, "migrate"], _environment(layout, migrate, {**environment, **owner}),
            layout.log_path(migrate), depends_on=(f"provision-{tier}",), one_shot=True,
        ),
        ProcessSpec(
            tier, [sys.executable, "-m", module, "serve"], _environment(layout, tier, environment),
            layout.log_path(tier), ready=lambda: serves_grpc(port), depends_on=needs, port=port,
        ),
    ]  # fmt: skip


def _client(layout: Layout, name: str, workload: str, module: str) -> Spec:
    environment = _environment(layout, name, layout.client_environment(workload))
    return ProcessSpec(
        name,
        [sys.executable, "-m", module],
        environment,
        layout.log_path(name),
        depends_on=(*layout.options.tiers, "issuer", "smtp"),
    )


def _module(
    layout: Layout, name: str, words: tuple[str, ...], *, ready: Probe, depends_on: tuple[str, ...] = ()
) -> Spec:
    port = layout.port(name)
    argv = [sys.executable, "-m", *words, "--port", str(port)]
    environment = _environment(layout, name)
    return ProcessSpec(name, argv, environment, layout.log_path(name), ready=ready, depends_on=depends_on, port=port)


def _listens(layout: Layout, name: str) -> Probe:
    port = layout.port(name)
    return lambda: accepts_connections(port)


def _environment(layout: Layout, component: str, ours: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN_PREFIXES) and not name.endswith(_FOREIGN_SUFFIXES)
    }
    return {**inherited, "PYTHONUNBUFFERED": "1", **(ours or {}), **layout.options.environment.get(component, {})}
