"""Point reads at the store under row-level security against the same reads without it, in turns in one run.

"Without" is the same store over a database object that neither sets a tenant nor opens a transaction, connected as a role
that policies do not concern; for the named hot reads it runs what stands inside their functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from tests.bench.report import Report

from penguin_chassis.pool import Database, database
from penguin_chassis.settings import PoolSettings
from penguin_content.domain.contents import BODY
from penguin_content.domain.reading import Wanted
from penguin_content.store.reading import ReadingStore
from penguin_devstack.postgres import temporary_cluster
from penguin_oltp.store.emails import EmailStore
from penguin_oltp.store.leads import LeadStore
from penguin_orchestrator import keys
from penguin_testkit.databases import Databases

ROWS = 20_000
READS = 4_000
CALLERS = 4
ROUNDS = 7
WANTED = 0.85
_CALL = re.compile(r"FROM (hot_\w+)\(")
Read = Callable[[UUID], Awaitable[object]]


class Bare:
    """A database as the stores use it, without tenant, transaction or policy."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._inside: dict[str, str] = {}

    async def one_trip(self, query: str, tenant_id: UUID, *arguments: object) -> list[asyncpg.Record]:
        """What stands inside the hot read's function, as a statement of its own."""
        if query not in self._inside:
            self._inside[query] = await self._unwrapped(query)
        connection = await self._pool.acquire(timeout=2)
        try:
            return await connection.fetch(self._inside[query], tenant_id, *arguments)
        finally:
            await self._pool.release(connection)

    async def _unwrapped(self, query: str) -> str:
        match = _CALL.search(query)
        if match is None:
            raise ValueError("not a hot read")
        row = await self._pool.fetchrow(
            "SELECT prosrc, proargnames, pronargs, proallargtypes::regtype[] FROM pg_proc WHERE proname = $1", match[1]
        )
        if row is None:
            raise ValueError(f"no function {match[1]}")
        body = row["prosrc"].split("RETURN QUERY", 1)[1].rsplit(";", 1)[0]
        names, outputs = row["proargnames"][: row["pronargs"]], row["proargnames"][row["pronargs"] :]
        for number, name in enumerate(names, 1):
            body = re.sub(rf"(?<![\w.'])\b{name}\b(?!['\w])", f"${number}", body)
        return f"SELECT * FROM ({body}) AS inside ({', '.join(outputs)})"

    @contextlib.asynccontextmanager
    async def tenant(self, _: UUID) -> AsyncIterator[Any]:
        """A connection as it is."""
        connection = await self._pool.acquire(timeout=2)
        try:
            yield connection
        finally:
            await self._pool.release(connection)


async def _keep(_: object) -> None:
    return None


async def rate(read: Read, ids: Sequence[UUID]) -> float:
    """Reads a second over a few callers."""

    async def caller(part: Sequence[UUID]) -> None:
        for each in part:
            await read(each)

    started = time.perf_counter()
    await asyncio.gather(*(caller(ids[n::CALLERS]) for n in range(CALLERS)))
    return len(ids) / (time.perf_counter() - started)


async def run(report: Report) -> None:
    """Measure and report."""
    with temporary_cluster() as cluster:
        databases = Databases(cluster)
        for tier, kinds in (("oltp", ("email (hot read)", "lead")), ("content", ("content with body (hot read)",))):
            urls = await databases.clone(tier)
            root = await asyncpg.create_pool(
                cluster.superuser_dsn(urls.database), min_size=CALLERS, max_size=CALLERS, reset=_keep
            )
            try:
                tenant, ids = await FILL[tier](root)
                # Twice the callers: one tenant may hold three quarters of a pool, and here is only one.
                async with database(PoolSettings(urls.app_url, urls.maintenance_url, max_size=2 * CALLERS)) as walled:
                    await _compare(report, kinds, tier, walled, Bare(root), tenant, ids)
            finally:
                await root.close()


async def _compare(
    report: Report, kinds: Sequence[str], tier: str, walled: Database, bare: Bare, tenant: UUID, ids: Sequence[UUID]
) -> None:
    for kind in kinds:
        under, without = (_reader(tier, kind, each, tenant) for each in (walled, bare))
        if await under(ids[0]) != await without(ids[0]):
            raise RuntimeError(f"{kind}: the two reads differ")
        pairs = [(await rate(under, ids[:READS]), await rate(without, ids[:READS])) for _ in range(ROUNDS)]
        report.add(
            f"RLS point read at the store: {kind}",
            statistics.median(p[0] for p in pairs),
            "reads/s",
            ratio=statistics.median(p[0] / p[1] for p in pairs),
            wanted=WANTED if "hot" in kind else None,
        )


def _reader(tier: str, kind: str, db: Any, tenant: UUID) -> Read:
    if tier == "content":
        contents, body = ReadingStore(db), Wanted(BODY)
        return lambda each: contents.get(tenant, each.hex, body)
    if kind == "lead":
        leads = LeadStore(db)
        return lambda each: leads.get(tenant, each)
    emails = EmailStore(db)
    return lambda each: emails.get(tenant, each)


async def fill_oltp(root: asyncpg.Pool[asyncpg.Record], rows: int = ROWS) -> tuple[UUID, list[UUID]]:
    """A tenant with as many emails and leads; its id, and theirs, which are the same."""
    tenant, ids, at = keys.new_id(), [keys.new_id() for _ in range(rows)], datetime.now(UTC)
    await root.execute(
        "INSERT INTO tenants (tenant_id, name, status, unknown_outcome_policy, created_at, updated_at)"
        " VALUES ($1, 'Bench', 'active', 'hold', $2, $2)", tenant, at,
    )  # fmt: skip
    await root.execute(
        "INSERT INTO emails (tenant_id, id, recipient, recipient_name, sender, sender_name, subject, status, priority,"
        " content_storage_key, content_generation, message_id, queued_at)"
        " SELECT $1, id, id || '@example.com', 'A Lead', 'us@sender.example', 'Us', 'Hello', 'queued', 'normal',"
        " id::text, 1, id::text, $3 FROM unnest($2::uuid[]) AS id", tenant, ids, at,
    )  # fmt: skip
    await root.execute(
        "INSERT INTO leads (tenant_id, id, email, first_name, last_name, company, list, custom_fields, status, created_at,"
        " updated_at) SELECT $1, id, id || '@example.com', 'A', 'Lead', 'Acme', 'all', '{}', 'active', $3, $3"
        " FROM unnest($2::uuid[]) AS id", tenant, ids, at,
    )  # fmt: skip
    await root.execute("ANALYZE")
    return tenant, ids


async def _fill_content(root: asyncpg.Pool[asyncpg.Record]) -> tuple[UUID, list[UUID]]:
    from penguin_content.domain.composed import Composed
    from penguin_content.domain.contents import compose

    tenant, ids, at = keys.new_id(), [keys.new_id() for _ in range(ROWS)], datetime.now(UTC)
    made = compose("key", None, Composed("We wrote a line. " * 100, "<p>We wrote a line.</p>" * 100), ())
    await root.execute(
        "INSERT INTO content_objects (tenant_id, storage_key, state, content_hash, raw_source, codec, raw_size, stored_size, body,"
        " attachment_count, defects, generation, claim_by, created_at)"
        " SELECT $1, replace(id::text, '-', ''), 'claimed', $3, false, $4, $5, octet_length($6::bytea), $6::bytea, 0, '{}', 1, $7, $7"
        " FROM unnest($2::uuid[]) AS id",
        tenant, ids, bytes.fromhex(made.content_hash), made.body.codec, made.raw_size, made.body.data, at,
    )  # fmt: skip
    await root.execute("ANALYZE")
    return tenant, ids


FILL = {"oltp": fill_oltp, "content": _fill_content}
