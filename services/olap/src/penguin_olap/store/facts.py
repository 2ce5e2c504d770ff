"""Loading facts: a (tenant, day) is replaced as a whole, by newer counts only; watermarks only ever move forward."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from penguin_chassis import barrier
from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_olap.domain.facts import (
    MEASURES,
    NOBODY,
    TABLES,
    DayFact,
    DayLoad,
    Loaded,
    Measures,
    Watermark,
    counts_of,
    estimated_cost_usd_micros,
    rolled_up,
    total,
)

sql = load("penguin_olap.store", "facts.sql")


class FactStore:
    """Facts of one database."""

    def __init__(self, db: Database, price_usd_micros_per_email: int) -> None:
        self._db = db
        self._price = price_usd_micros_per_email

    async def load_day(self, step: Step, loading: DayLoad) -> Loaded:
        """Replace every cell of the tenant's day, unless a count of the same or a later moment stands already."""
        # Summed up before the transaction begins: nobody waits for arithmetic.
        rows = _Rows(loading, self._price)
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Loaded)) is not None:
                return done.reply
            loaded = await _replace(connection, step.tenant_id, loading, rows, step.at)
            return await barrier.record(connection, step, loaded, Loaded)

    async def commit_watermark(self, step: Step, source: str, cursor: str, data_through: datetime) -> Watermark:
        """Move a source's watermark forward; one that lies before the stored one changes nothing. Answers the stored."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Watermark)) is not None:
                return done.reply
            row = await connection.fetchrow(
                sql.commit_watermark, step.tenant_id, source, cursor, data_through, step.at
            ) or await connection.fetchrow(sql.watermark, step.tenant_id, source)
            return await barrier.record(connection, step, Watermark(**dict(row or {})), Watermark)

    async def watermark(self, tenant_id: UUID, source: str) -> Watermark | None:
        """How far a source has been loaded; None before its first commit."""
        async with self._db.tenant(tenant_id) as connection:
            row = await connection.fetchrow(sql.watermark, tenant_id, source)
        return Watermark(**dict(row)) if row else None

    async def day_facts(self, tenant_id: UUID, day: date, after: DayFact | None, limit: int) -> list[DayFact]:
        """Up to `limit` rows of the day after one, table by table."""
        place = (-1, NOBODY, NOBODY)
        if after is not None:
            mailbox = after.table == "mailbox"
            place = (TABLES.index(after.table), after.email_account_id if mailbox else after.campaign_id, after.step_id)
        async with self._db.tenant(tenant_id) as connection:
            return [_fact(row) for row in await connection.fetch(sql.day_facts, tenant_id, day, *place, limit)]


def _fact(row: Any) -> DayFact:
    table = TABLES[row["n"]]
    measures = Measures(**{name: row[name] for name in MEASURES})
    if table == "mailbox":
        return DayFact(table, NOBODY, NOBODY, row["id"], measures)
    return DayFact(table, row["id"], row["step_id"], NOBODY, measures)


class _Rows:
    """A load as the columns its tables take."""

    def __init__(self, loading: DayLoad, price: int) -> None:
        cells = loading.cells
        whole = total(cell.measures for cell in cells)
        self.campaigns = _columns(rolled_up(cells, lambda c: (c.campaign_id,)), 1)
        self.steps = _columns(rolled_up(cells, lambda c: (c.campaign_id, c.step_id)), 2)
        self.mailboxes = _columns(rolled_up(cells, lambda c: (c.email_account_id,)), 1)
        cost = estimated_cost_usd_micros(whole.sent, price)
        self.billing = (whole.sent, whole.delivered, whole.bounced, loading.content_bytes, cost)


def _columns(groups: Mapping[tuple[UUID, ...], Measures], ids: int) -> list[list[Any]]:
    rows = [(*key, *counts_of(measures)) for key, measures in groups.items()]
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(ids + len(MEASURES))]


async def _replace(connection: Connection, tenant_id: UUID, loading: DayLoad, rows: _Rows, at: datetime) -> Loaded:
    cells = len(loading.cells)
    turn = await connection.fetchval(
        sql.take_turn, tenant_id, loading.day, loading.computed_at, loading.digest, cells, at
    )
    if turn is None:
        return await _standing(connection, tenant_id, loading)
    cell = (tenant_id, loading.day, loading.computed_at)
    await connection.execute(sql.put_campaigns, *cell, *rows.campaigns)
    await connection.execute(sql.put_steps, *cell, *rows.steps)
    await connection.execute(sql.put_mailboxes, *cell, *rows.mailboxes)
    await connection.execute(sql.put_billing, *cell, *rows.billing)
    await connection.execute(sql.sweep, *cell)
    return Loaded(stale=False, cells=cells)


async def _standing(connection: Connection, tenant_id: UUID, loading: DayLoad) -> Loaded:
    """The answer where a count stands: the very same one is no stale load, it is loaded already."""
    row = await connection.fetchrow(sql.stored_load, tenant_id, loading.day)
    if row and (row["computed_at"], row["digest"]) == (loading.computed_at, loading.digest):
        return Loaded(stale=False, cells=row["cells"])
    return Loaded(stale=True, cells=0)
