"""`make bench-reconcile`: a million keys, a hundred faults in both directions; then fewer of both; then a source that is down.

The keys go straight into the two databases; what is measured is a process of its own, which reconciles through the tiers.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uvloop
from tests.bench.report import Report

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin.oltp.v1.reconcile_service_pb2_grpc import ReconcileServiceStub
from penguin_devstack.stack import LocalStack
from penguin_orchestrator import keys
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import closed_before

RESULTS = Path(".local") / "bench" / "reconcile.json"
KEYS = int(os.environ.get("KEYS", "1000000"))
FAULTS = 100
# Over how many hours the keys were minted.
GENERATIONS = 240
SETTINGS = {"fsync": "on", "max_wal_size": "4GB", "checkpoint_timeout": "30min"}
SECONDS_WANTED, MEBIBYTES_WANTED = 60, 200


@dataclass
class Planted:
    """What stands where: keys only in Content, only in OLTP, and in quarantine (past their grace or not, wanted or not)."""

    orphans: set[str]
    dangling: set[str]
    past: set[str]
    young: set[str]
    wanted: set[str]


async def plant(stack: LocalStack, tenant: UUID, count: int, faults: int) -> Planted:
    """`count` keys that agree, and `faults` that do not."""
    last = closed_before(time.time()) - 1
    held = [(keys.storage_key(), last - n % GENERATIONS) for n in range(count)]
    odd = [(keys.storage_key(), last - n % GENERATIONS) for n in range(faults)]
    past, young = odd[: faults // 10], odd[faults // 10 : faults // 5]
    wanted, rest = odd[faults // 5 : faults // 5 + 2], odd[faults // 5 + 2 :]
    orphans, dangling = rest[::2], rest[1::2]
    now = datetime.now(UTC)
    contents = [
        *((*each, "claimed", None) for each in (*held, *orphans)),
        *((*each, "quarantined", now - timedelta(days=30)) for each in (*past, *wanted)),
        *((*each, "quarantined", now - timedelta(days=1)) for each in young),
    ]
    await asyncio.gather(
        _content_rows(stack, tenant, contents), _email_rows(stack, tenant, [*held, *dangling, *wanted])
    )
    named = [{key for key, _ in each} for each in (orphans, dangling, past, young, wanted)]
    return Planted(*named)


async def _content_rows(stack: LocalStack, tenant: UUID, rows: list[Any]) -> None:
    now, digest = datetime.now(UTC), b"0" * 32
    columns = ("tenant_id", "storage_key", "generation", "state", "quarantined_at", "claim_by", "created_at",
               "content_hash", "raw_source", "codec", "raw_size", "stored_size", "attachment_count", "defects", "body")  # fmt: skip
    made: Any = (
        (tenant, key, generation, state, since, now - timedelta(hours=1), now, digest, False, "none", 900, 900, 0, [],
         os.urandom(16) * 56)
        for key, generation, state, since in rows
    )  # fmt: skip
    await _copy(stack, "content", "content_objects", columns, made)


async def _email_rows(stack: LocalStack, tenant: UUID, rows: list[tuple[str, int]]) -> None:
    now = datetime.now(UTC)
    columns = ("tenant_id", "id", "recipient", "recipient_name", "sender", "sender_name", "subject", "status", "priority",
               "content_storage_key", "content_generation", "message_id", "queued_at")  # fmt: skip
    made = (
        (
            tenant,
            uuid4(),
            "lead@example.com",
            "",
            "us@example.com",
            "",
            "Hello",
            "sent",
            "normal",
            key,
            generation,
            key,
            now,
        )
        for key, generation in rows
    )
    await _copy(stack, "oltp", "emails", columns, made)


async def _copy(stack: LocalStack, tier: str, table: str, columns: tuple[str, ...], rows: Any) -> None:
    connection = await asyncpg.connect(stack.cluster(tier).superuser_dsn(stack.database(tier).database))
    try:
        await connection.copy_records_to_table(table, records=rows, columns=columns)
        await connection.execute(f"VACUUM (ANALYZE) {table}")  # as autovacuum would leave it
    finally:
        await connection.close()


async def _reconcile(tenant: str, apply: bool) -> None:
    """In a process of its own: one run, its receipt and what it took."""
    started = time.perf_counter()
    async with Penguin.connect() as penguin:
        run = await penguin.reconciler.run(Terms(apply=apply, tenant_id=UUID(tenant)))
        seconds = time.perf_counter() - started
        oltp, found = penguin.tiers["oltp"], list[tuple[str, str, str]]()
        request = pb.ListReconcileFindingsRequest(run_id=run.id, page_size=1000)
        reply = await oltp.call(oltp.stub(ReconcileServiceStub).ListReconcileFindings, request)
        found = [(each.kind, each.subject, each.action) for each in reply.findings]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {
        "seconds": seconds,
        "mebibytes": peak,
        "counts": dict(run.counts),
        "found": found,
        "why": run.refused_reason,
    }
    print(json.dumps(told))


async def reconciled(stack: LocalStack, tenant: UUID, *, apply: bool = True) -> dict[str, Any]:
    """One run, in a process of its own."""
    words = [sys.executable, "-m", "tests.bench.reconcile", "run", str(tenant), *(["apply"] if apply else [])]
    environment = os.environ | stack.environment("orchestrator")
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, env=environment)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("the run failed")
    told: dict[str, Any] = json.loads(out)
    return told


def judged(planted: Planted, told: dict[str, Any]) -> int:
    """How many findings are not those that were planted, or are missing."""
    found = {(kind, subject, action) for kind, subject, action in told["found"]}
    wanted = {
        *(("orphan", key, "quarantined") for key in planted.orphans),
        *(("dangling", key, "") for key in planted.dangling),
        *(("deletable", key, "deleted") for key in planted.past),
        *(("wanted", key, "revived") for key in planted.wanted),
    }
    return len(found ^ wanted)


async def still_there(stack: LocalStack, tenant: UUID) -> int:
    """Contents of the tenant."""
    connection = await asyncpg.connect(stack.cluster("content").superuser_dsn(stack.database("content").database))
    try:
        return int(await connection.fetchval("SELECT count(*) FROM content_objects WHERE tenant_id = $1", tenant))
    finally:
        await connection.close()


async def measure(report: Report, stack: LocalStack, count: int, faults: int) -> None:
    """Plant, reconcile, judge."""
    tenant = uuid4()
    planted = await plant(stack, tenant, count, faults)
    before = await still_there(stack, tenant)
    name = f"{count:,} keys, {faults} faults"
    told = await reconciled(stack, tenant)
    gone = before - await still_there(stack, tenant)
    report.add(f"{name}: seconds", told["seconds"], "s", limit=SECONDS_WANTED)
    report.add(f"{name}: peak memory", told["mebibytes"], "MiB", limit=MEBIBYTES_WANTED)
    report.add(f"{name}: bytes moved", told["counts"]["bytes"] / 1024, "KiB")
    report.add(f"{name}: found or missed wrongly", judged(planted, told), "", limit=0)
    report.add(f"{name}: deleted other than the orphans past grace", abs(gone - len(planted.past)), "", limit=0)


async def refused(report: Report, stack: LocalStack) -> None:
    """With a source stopped: nothing is deleted, and the receipt says why."""
    tenant = uuid4()
    await plant(stack, tenant, 10_000, FAULTS)
    before = await still_there(stack, tenant)
    await stack.stop("olap")
    try:
        told = await reconciled(stack, tenant)
    finally:
        await stack.start("olap")
    print(f"with olap stopped: {told['why']}")
    report.add("with a tier stopped: runs that did not say why", float(not told["why"]), "", limit=0)
    report.add("with a tier stopped: deleted", before - await still_there(stack, tenant), "", limit=0)


async def _main() -> int:
    report = Report()
    with tempfile.TemporaryDirectory(prefix="pr-") as folder:
        stack = LocalStack(Path(folder), with_workers=False, database_settings=SETTINGS, tied_to_caller=True)
        try:
            await stack.up()
            await measure(report, stack, KEYS // 5, FAULTS // 10)
            await measure(report, stack, KEYS // 5, FAULTS)
            await measure(report, stack, KEYS, FAULTS)
            await refused(report, stack)
        finally:
            await stack.down()
    report.write(RESULTS)
    print(f"written to {RESULTS}")
    return int(any(figure.verdict == "FALLS SHORT" for figure in report.figures))


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        uvloop.run(_reconcile(sys.argv[2], "apply" in sys.argv[3:]))
        sys.exit(0)
    sys.exit(uvloop.run(_main()))
