"""send_emails and send_email through the tiers against one local transaction of one database, in turns in one run."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import psutil
from tests.bench import spending
from tests.bench.monolith import Monolith
from tests.bench.report import Report

from penguin_chassis import memory
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.config import PlatformConfig
from penguin_orchestrator.messages import OutgoingEmail, Refusal
from penguin_orchestrator.platform import Penguin

ROUNDS = 3
BATCH = 100
CALLERS = 16
SINGLE_CALLERS = 64
SECONDS = 4.0
ALONE = 200
_WORDS = [
    "offer", "meeting", "invoice", "penguin", "schedule", "team", "quarter", "growth", "thanks", "regards", "proposal",
    "customer", "feature", "launch", "week", "update", "results", "because", "between", "without", "market", "product",
]  # fmt: skip


def emails(count: int, seed: int) -> list[OutgoingEmail]:
    """Emails of about 5 KB, text and HTML, no two alike."""
    rng = random.Random(seed)
    made: list[OutgoingEmail] = []
    for n in range(count):
        text = " ".join(rng.choices(_WORDS, k=280))
        html = (
            "<html><body>"
            + "".join(f"<p>{' '.join(rng.choices(_WORDS, k=50))}</p>" for _ in range(8))
            + "</body></html>"
        )
        made.append(
            OutgoingEmail(
                recipient=f"lead-{seed}-{n}@example.com",
                recipient_name="A Lead",
                sender="us@sender.example",
                sender_name="Us",
                subject=f"Hello {n}",
                text=text,
                html=html,
            )
        )
    return made


async def rate(work: Callable[[int], Awaitable[int]], callers: int, seconds: float = SECONDS) -> float:
    """Emails a second over `callers` who call again and again for `seconds`."""
    ends = time.perf_counter() + seconds
    total = 0

    async def caller(n: int) -> None:
        nonlocal total
        while time.perf_counter() < ends:
            done = await work(n)  # not in the addition: that would read `total` before it waits
            total += done

    started = time.perf_counter()
    await asyncio.gather(*(caller(n) for n in range(callers)))
    return total / (time.perf_counter() - started)


async def run(report: Report) -> None:
    """Measure and report; starts and removes private servers."""
    with tempfile.TemporaryDirectory(prefix="pb-") as folder:
        stack = LocalStack(Path(folder), tied_to_caller=True)
        try:
            await stack.up()
            await _measure(stack, report)
        finally:
            await stack.down()


async def _measure(stack: LocalStack, report: Report) -> None:
    memory.settle()  # as every process of the platform does; it is the local transaction's process too
    await stack.stop("worker")  # the rows are the same; what becomes of the jobs is not measured here
    config = PlatformConfig(**stack.environment("orchestrator"))  # type: ignore[arg-type]
    admin = await asyncpg.connect(stack.cluster("oltp").superuser_dsn("postgres"))
    await admin.execute("CREATE DATABASE monolith")
    await admin.close()
    monolith = await Monolith.open(stack.cluster("oltp").superuser_dsn("monolith"), SINGLE_CALLERS)
    try:
        async with Penguin.connect(config) as penguin:
            tenant = await penguin.tenants.onboard("Bench")
            await _batches(penguin, monolith, tenant, report, stack)
            await _singles(penguin, monolith, tenant, report)
            await _alone(penguin, tenant, report)
    finally:
        await monolith.close()


async def _batches(penguin: Penguin, monolith: Monolith, tenant: UUID, report: Report, stack: LocalStack) -> None:
    batches = [emails(BATCH, seed) for seed in range(CALLERS)]

    async def tiers(n: int) -> int:
        results = await penguin.send_emails(tenant, batches[n])
        refused = [r for r in results if isinstance(r, Refusal)]
        if refused:
            raise RuntimeError(f"refused: {refused[0]}")
        return len(results)

    async def local(n: int) -> int:
        await monolith.send_emails(tenant, batches[n])
        return BATCH

    pairs: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        await tiers(0)
        await stack.start("relay")
        await _relayed(stack)
        with_relay = await rate(tiers, CALLERS)
        await stack.stop("relay")
        without_relay = await rate(tiers, CALLERS)
        pairs.append((with_relay, without_relay, await rate(local, CALLERS)))
    bar = statistics.median(p[2] for p in pairs)
    report.add("one local transaction per batch of 100, 16 callers", bar, "emails/s")
    for index, name in ((0, "relay running"), (1, "relay stopped")):
        ours = statistics.median(p[index] for p in pairs)
        ratio = statistics.median(p[index] / p[2] for p in pairs)
        report.add(
            f"send_emails of 100, 16 callers, {name}", ours, "emails/s", ratio=ratio, wanted=0.6 if index == 0 else None
        )
    await _where_the_time_goes(stack, report, tiers, local)
    await stack.start("relay")


async def _relayed(stack: LocalStack, timeout_s: float = 120.0) -> None:
    """Wait until the relay is at work and has moved what earlier rounds left: neither is a send's cost."""
    connection = await asyncpg.connect(stack.cluster("oltp").superuser_dsn(stack.database("oltp").database))
    try:
        async with asyncio.timeout(timeout_s):
            while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    finally:
        await connection.close()


async def _where_the_time_goes(
    stack: LocalStack, report: Report, tiers: Callable[[int], Awaitable[int]], local: Callable[[int], Awaitable[int]]
) -> None:
    """CPU per email by process, the relay stopped: what a batch of 100 costs each of them."""
    for name, work in (("tiers", tiers), ("one database", local)):
        before = _spent(stack)
        count = await rate(work, CALLERS) * SECONDS
        parts = {part: us for part, us in spending.each(before, _spent(stack), count).items() if us >= 1.0}
        report.add(f"CPU per email, {name}", sum(parts.values()), "µs")
        for part, micros in parts.items():
            report.add(f"    {part}", micros, "µs")


def _spent(stack: LocalStack) -> dict[str, float]:
    return {"client": spending.of(psutil.Process())} | spending.spent(stack)


async def _singles(penguin: Penguin, monolith: Monolith, tenant: UUID, report: Report) -> None:
    pool = emails(1000, 99)

    async def tiers(n: int) -> int:
        await penguin.send_email(tenant, pool[n])
        return 1

    async def local(n: int) -> int:
        await monolith.send_emails(tenant, [pool[n]])
        return 1

    pairs = [(await rate(tiers, SINGLE_CALLERS), await rate(local, SINGLE_CALLERS)) for _ in range(ROUNDS)]
    report.add("one local transaction per email, 64 callers", statistics.median(p[1] for p in pairs), "emails/s")
    report.add(
        "send_email coalesced, 64 callers", statistics.median(p[0] for p in pairs), "emails/s",
        ratio=statistics.median(p[0] / p[1] for p in pairs), wanted=1.0,
    )  # fmt: skip


async def _alone(penguin: Penguin, tenant: UUID, report: Report) -> None:
    pool = emails(ALONE, 7)

    async def p50(send: Callable[[OutgoingEmail], Awaitable[object]]) -> float:
        times: list[float] = []
        for email in pool:
            started = time.perf_counter()
            await send(email)
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1000

    rounds = [
        (await p50(lambda e: penguin.send_email(tenant, e)), await p50(lambda e: penguin.send_emails(tenant, [e])))
        for _ in range(ROUNDS)
    ]
    coalesced, plain = (statistics.median(r[i] for r in rounds) for i in (0, 1))
    report.add("send_email alone, uncoalesced, p50", plain, "ms")
    report.add("send_email alone, coalesced, p50", coalesced, "ms", extra=coalesced - plain, wanted_extra=2.0)
