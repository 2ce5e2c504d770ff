"""`make bench-admission`: what four quiet tenants feel of a noisy one, at OLTP with its default settings.

In turns: the quiet ones alone, then beside a tenant that has twenty times its share of calls under way all the time. The callers
are processes of their own, and what each process takes of the machine is told beside; the noisy one yields to the others (`nice`),
for in earnest it is another machine's. Where something else is busy on the machine, the p99 tell of that: look at it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import psutil
import uvloop
from tests.bench import spending
from tests.bench.admission.callers import Tenant
from tests.bench.reads import fill_oltp
from tests.bench.report import Report

from penguin_chassis.settings import ServerSettings
from penguin_devstack import pgfiles
from penguin_devstack.ports import free_port
from penguin_devstack.postgres import PostgresCluster, temporary_cluster
from penguin_testkit.databases import Databases
from penguin_testkit.tokens import TokenFactory

RESULTS = Path(".local") / "bench" / "admission.json"
TURNS = int(os.environ.get("TURNS", "9"))
SECONDS = 4.0
QUIET, RATE = 4, 60.0
# Twenty times its share: of the places, an even part among five.
CALLS = int(os.environ.get("CALLS", str(20 * ServerSettings.places // (QUIET + 1))))
LEADS = 200
WANTED = 2.0
NICE = 19


@dataclass
class Side:
    """The turns with the noisy tenant, or without: of each the quiet calls' percentiles (ms) and the processes' parts of a core;
    of the noisy tenant calls a second that were answered and that were refused."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cores: list[dict[str, float]] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0


def percentile(times: Sequence[float], hundredth: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(times, n=100)[hundredth - 1] * 1000


class Process:
    """A caller: one line in, one line out."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, words: dict[str, Any]) -> dict[str, Any]:
        """Have it do something; what it found."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a caller ended")
        return {} if line == b"ready\n" else json.loads(line)


@contextlib.asynccontextmanager
async def _callers(kind: str, address: str, tenants: list[Tenant], nice: int) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.admission.callers", kind, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, limit=1 << 26,
    )  # fmt: skip
    psutil.Process(process.pid).nice(nice)
    try:
        caller = Process(process)
        await caller.ask({"address": address, "tenants": [asdict(tenant) for tenant in tenants]})
        yield caller
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def _service(cluster: PostgresCluster, tokens: TokenFactory) -> AsyncIterator[tuple[str, int, list[Tenant]]]:
    """OLTP as a process, its settings the defaults; its address, its pid, and tenants with rows, the noisy one last."""
    urls = await Databases(cluster).clone("oltp")
    root = await asyncpg.create_pool(cluster.superuser_dsn(urls.database), min_size=1, max_size=1)
    tenants = []
    try:
        for _ in range(QUIET + 1):
            tenant, ids = await fill_oltp(root, LEADS)
            tenants.append(_tenant(tokens, tenant, ids))
    finally:
        await root.close()
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ, "OLTP_DB_URL": urls.app_url, "OLTP_MAINTENANCE_DB_URL": urls.maintenance_url, "OLTP_LISTEN": address,
        "PENGUIN_JWKS_PATH": str(tokens.jwks_path), "PENGUIN_LOG_LEVEL": "WARNING",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "penguin_oltp", "serve", env=environment)
    try:
        yield address, process.pid, tenants
    finally:
        process.terminate()
        await process.wait()


def _tenant(tokens: TokenFactory, tenant: UUID, ids: Sequence[UUID]) -> Tenant:
    reading, writing = (tokens.token("oltp", tenant=tenant, scopes=[scope]) for scope in ("emails.read", "leads.write"))
    return Tenant(str(tenant), reading, writing, str(ids[0]), [str(each) for each in ids])


def _cpu(service: int, cluster: PostgresCluster) -> dict[str, float]:
    """Seconds spent so far."""
    database = psutil.Process(pgfiles.postmaster_pid(cluster.data_dir))
    return {
        "service": spending.of(psutil.Process(service)),
        "PostgreSQL": sum(spending.of(each) for each in (database, *database.children(recursive=True))),
    }


async def run(report: Report) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as folder, temporary_cluster() as cluster:
        tokens = TokenFactory(Path(folder))
        async with _service(cluster, tokens) as (address, pid, tenants), contextlib.AsyncExitStack() as stack:
            quiet = await stack.enter_async_context(_callers("quiet", address, tenants[:QUIET], 0))
            noisy = await stack.enter_async_context(_callers("noisy", address, tenants[QUIET:], NICE))
            alone, beside = Side(), Side()
            for turn in range(TURNS + 1):
                for side, calls in ((alone, 0), (beside, CALLS)):
                    # The first turn opens connections, and tells nothing.
                    await _turn(side if turn else Side(), quiet, noisy, calls, lambda: _cpu(pid, cluster))
            _tell(report, alone, beside)


async def _turn(side: Side, quiet: Process, noisy: Process, calls: int, cpu: Callable[[], dict[str, float]]) -> None:
    making, made_s = None, SECONDS + 1.0
    if calls:
        making = asyncio.create_task(noisy.ask({"calls": calls, "seconds": made_s, "obedient": True}))
        await asyncio.sleep(0.5)
    before = cpu()
    found = await quiet.ask({"rate": RATE, "seconds": SECONDS})
    after = cpu()
    side.failed += sum(found["other"].values())
    side.p50.append(percentile(found["times"], 50))
    side.p99.append(percentile(found["times"], 99))
    cores = {part: (after[part] - before[part]) / SECONDS for part in after} | {
        "quiet callers": found["cpu_s"] / SECONDS
    }
    if making:
        made = await making
        if made["without_retry_info"]:
            raise RuntimeError("calls were refused without RetryInfo")
        side.answered.append(len(made["times"]) / made_s)
        side.refused.append(made["other"].get("RESOURCE_EXHAUSTED", 0) / made_s)
        cores["noisy callers"] = made["cpu_s"] / made_s
    side.cores.append(cores)


def _tell(report: Report, alone: Side, beside: Side) -> None:
    median = statistics.median
    report.add("noisy tenant: calls answered", median(beside.answered), "a second")
    report.add("noisy tenant: calls refused", median(beside.refused), "a second")
    for name, side in (("alone", alone), ("beside a noisy one", beside)):
        for part in side.cores[0]:
            report.add(
                f"CPU of {part}, quiet tenants {name}", median(each[part] for each in side.cores) * 100, "% of one"
            )
    report.add("quiet tenants' calls that failed", alone.failed + beside.failed, "calls", limit=0)
    report.add("quiet tenants' p50 alone", median(alone.p50), "ms")
    report.add("quiet tenants' p50 beside a noisy one", median(beside.p50), "ms", limit=WANTED * median(alone.p50))
    report.add("quiet tenants' p99 alone", median(alone.p99), "ms")
    report.add("quiet tenants' p99 beside a noisy one", median(beside.p99), "ms", limit=WANTED * median(alone.p99))


async def _main() -> int:
    report = Report()
    await run(report)
    report.write(RESULTS)
    return int(any(figure.verdict == "FALLS SHORT" for figure in report.figures))


if __name__ == "__main__":
    sys.exit(uvloop.run(_main()))
