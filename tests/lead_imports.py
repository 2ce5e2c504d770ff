"""A lead import that is killed again and again, on a real stack: its file with planted faults, who carries it, and what must be
true when it has ended. Both the test and the measurement play it."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
from libs.worker.tests.waiting import until

from penguin.content.v1 import content_service_pb2 as content_pb
from penguin.content.v1.content_service_pb2_grpc import ContentServiceStub
from penguin.oltp.v1 import saga_service_pb2 as saga_pb
from penguin.oltp.v1.saga_service_pb2_grpc import SagaServiceStub
from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.platform import Penguin

AUDIENCE = "all"
# A shell's background job is born deaf to Ctrl-C, and so is all that it starts.
HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
# How far each process comes before it is killed (parts of the rows).
KILLED_AT = (0.2, 0.55)
# It comes no further than this beyond that (a part of the rows), however late it is looked at.
BEYOND = 0.15
WAIT_S = 300.0
_OWNER = re.compile(r"-(\d+)-[0-9a-f]{12}(?:-[0-9a-f]{12})?$")
_SUMMARY = re.compile(r"([\d,]+) created, ([\d,]+) existed, ([\d,]+) left out, of ([\d,]+) rows")
_SAME_LEAD = """INSERT INTO leads (tenant_id, id, email, first_name, last_name, company, list, custom_fields, status, created_at,
updated_at) VALUES ($1, $2, $3, '', '', '', $4, '{}', 'active', now(), now())"""
_END_LEASE = "UPDATE sagas SET due_at = now() WHERE tenant_id = $1 AND id = $2 AND due_at IS NOT NULL"


@dataclass(frozen=True)
class Planted:
    """A file; the addresses it has, and the reasons by line of what is none."""

    data: bytes
    addresses: frozenset[str]
    problems: dict[int, str]
    rows: int


def planted(rows: int) -> Planted:
    """So many rows, a fault on about one line in a hundred, some fields of several lines."""
    out, line = bytearray(b"\xef\xbb\xbfemail,first_name,company,note\r\n"), 2
    addresses: set[str] = set()
    problems: dict[int, str] = {}
    for n in range(rows):
        address = f"lead{n}@example.com"
        text, reason, taken = f"{address},Zoë {n},Acme {n},plain".encode(), "", 1
        match n % 700:
            case 99:
                text, reason = f"nobody {n},A,B,".encode(), "BAD_ADDRESS"
            case 199:
                text, reason = f"LEAD{n - 1}@example.com,A,B,".encode(), "DUPLICATE"
            case 299:
                text, reason = f"{address},A,B".encode(), "WRONG_COLUMNS"
            case 399:
                text, reason = f'{address},"A,B,'.encode(), "UNBALANCED_QUOTES"
            case 499:
                text, reason = address.encode() + b",Zo\xeb,B,", "BAD_ENCODING"
            case 599:
                text, reason = f"{address},{'A' * 201},B,".encode(), "TOO_LONG"
            case 650:
                text, taken = f'{address},A,B,"two\r\nlines, of ""one"" field"'.encode(), 2
        if reason:
            problems[line] = reason
        else:
            addresses.add(address)
        out += text + b"\r\n"
        line += taken
    return Planted(bytes(out), frozenset(addresses), problems, rows)


@dataclass
class Played:
    """What an import did when it was killed: seconds at work between kills, and rows that stood at each."""

    seconds: list[float]
    stood: list[int]
    owners: list[int]


@dataclass
class Stage:
    """A stack, one tenant in it, and its ledger."""

    stack: LocalStack
    penguin: Penguin
    tenant: UUID
    oltp: Database

    async def count(self) -> int:
        """Leads that stand."""
        async with self.oltp.tenant(self.tenant) as connection:
            return int(await connection.fetchval("SELECT count(*) FROM leads WHERE tenant_id = $1", self.tenant))

    @contextlib.asynccontextmanager
    async def dammed(self, row: int) -> AsyncIterator[None]:
        """No import comes past about this row of what was `planted`, until the block ends: it waits for somebody who is just
        writing the same lead, and then does not."""
        row += row % 700 % 50 == 49
        # Of its own, as those of the pool are taken back after a while.
        connection = await asyncpg.connect(self.stack.database("oltp").app_url)
        try:
            await connection.execute("BEGIN")
            await connection.execute("SELECT set_config('app.current_tenant_id', $1, true)", str(self.tenant))
            await connection.execute(_SAME_LEAD, self.tenant, uuid4(), f"lead{row}@example.com", AUDIENCE)
            yield
        finally:
            await connection.close()

    async def saga(self) -> saga_pb.Saga | None:
        """The tenant's import, once it is journaled."""
        oltp = self.penguin.tiers["oltp"]
        request = saga_pb.ListSagasRequest(tenant_id=str(self.tenant), kind="leads.import")
        found = (await oltp.insist(oltp.stub(SagaServiceStub).ListSagas, request, deadline_s=30)).sagas
        return found[0] if found else None

    async def leases_end(self) -> None:
        """Whoever carried it has been silent for long enough."""
        saga = await self.saga()
        assert saga is not None
        async with self.oltp.tenant(self.tenant) as connection:
            await connection.execute(_END_LEASE, self.tenant, UUID(saga.id))

    async def owner(self) -> int | None:
        """The process that carries the import, if any does. Fails where nobody needs to any more."""
        saga = await self.saga()
        if saga is None:
            return None
        assert saga.state == saga_pb.SAGA_STATE_RUNNING, "the import was over before it could be killed"
        found = _OWNER.search(saga.owner)
        return found and int(found[1])

    async def kill_owner(self) -> int:
        """SIGKILL the process that carries the import; its id."""
        process = await self.owner()
        assert process is not None
        os.kill(process, signal.SIGKILL)
        return process


@contextlib.asynccontextmanager
async def stage(stack: LocalStack, penguin: Penguin) -> AsyncIterator[Stage]:
    """A tenant of its own."""
    tenant = await penguin.tenants.onboard("Imports")
    urls = stack.database("oltp")
    async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2)) as oltp:
        yield Stage(stack, penguin, tenant, oltp)


async def command(here: Stage, *words: str) -> asyncio.subprocess.Process:
    """`penguin leads import …` as a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", HEARING, str(Path(sys.executable).with_name("penguin")), "--root", str(here.stack.root), "leads", "import", *words,
        "--tenant", str(here.tenant), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={key: value for key, value in os.environ.items() if not key.startswith(("PENGUIN_", "OTEL_"))},
    )  # fmt: skip


async def play(here: Stage, file: Path, plan: Planted, leases_end: Callable[[], Awaitable[None]]) -> Played:
    """Import the file; kill whoever carries it at each of KILLED_AT; go on with it to the end, and hold what stands against
    the plan. `leases_end` returns when a killed owner's lease is over."""
    played = Played([], [], [])
    await asyncio.to_thread(file.write_bytes, plan.data)
    words = [str(file), "--list", AUDIENCE]
    processes = list[asyncio.subprocess.Process]()
    for part in KILLED_AT:
        async with here.dammed(int(plan.rows * (part + BEYOND))):
            processes.append(await command(here, *words))
            await _killed(here, plan, part, played)
        await leases_end()
        saga = await here.saga()
        assert saga is not None
        words = ["--resume", saga.id]
    processes.append(await command(here, *words))
    begun = time.monotonic()
    said, _ = await asyncio.wait_for(processes[-1].communicate(), WAIT_S)
    played.seconds.append(time.monotonic() - begun)
    for process in processes[:-1]:
        await asyncio.wait_for(process.communicate(), WAIT_S)
    # What it says of itself: some lines were left out, so it has not done all that was asked.
    assert processes[0].returncode == -signal.SIGKILL
    assert processes[-1].returncode == 1, said.decode()
    assert told(said) == (len(plan.addresses), 0, len(plan.problems), plan.rows), said.decode()
    await check(here, plan)
    return played


async def _killed(here: Stage, plan: Planted, part: float, played: Played) -> None:
    """Kill who carries the import once that part of the rows stands."""
    begun, wanted = time.monotonic(), max(await here.count() + 1, int(len(plan.addresses) * part))

    async def so_far() -> bool:
        return await here.owner() not in {None, *played.owners} and await here.count() >= wanted

    await until(so_far, WAIT_S)
    played.owners.append(await here.kill_owner())
    played.seconds.append(time.monotonic() - begun)
    played.stood.append(await here.count())
    assert played.stood[-1] < len(plan.addresses), "all rows stood before it could be killed"


def told(said: bytes) -> tuple[int, ...] | None:
    """Created, existed, left out and rows, as the command says them."""
    found = _SUMMARY.search(said.decode())
    return found and tuple(int(each.replace(",", "")) for each in found.groups())


async def check(here: Stage, plan: Planted) -> None:
    """Each row once, each fault by its line, and no file left."""
    async with here.oltp.tenant(here.tenant) as connection:
        rows = await connection.fetch("SELECT email FROM leads WHERE tenant_id = $1", here.tenant)
    assert len(rows) == len(plan.addresses)
    assert {row["email"] for row in rows} == plan.addresses
    saga = await here.saga()
    assert saga is not None
    assert saga.state == saga_pb.SAGA_STATE_SUCCEEDED
    report = await here.penguin.leads.report(here.tenant, UUID(saga.id))
    read = csv.DictReader(io.StringIO(report.decode(), newline=""))
    assert {int(each["line"]): each["reason"] for each in read} == plan.problems
    content = here.penguin.tiers["content"]
    listed = await content.insist(
        content.stub(ContentServiceStub).ListContents, content_pb.ListContentsRequest(tenant_id=str(here.tenant)),
        deadline_s=30,
    )  # fmt: skip
    assert len(listed.contents) == 1, "more is left than the report"
