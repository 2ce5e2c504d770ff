"""The outbox: what a tier owes to others, written in the transaction that owes it and leased by relays.

It delivers nothing and knows no destination. Rows come at least once; receivers keep the row's id as their idempotency key.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from opentelemetry import metrics
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from penguin_chassis.faults import ResourceExhausted
from penguin_chassis.jsonbytes import json_bytes
from penguin_chassis.pool import affected
from penguin_chassis.queries import load

if TYPE_CHECKING:
    from penguin_chassis.pool import Connection, Database

sql = load("penguin_chassis.sql", "outbox.sql")
# The depth reported is exact up to this many rows.
COUNT_LIMIT = 100_000
# Every replica counts the same database and says so by itself.
_OF_ALL = "Of the whole database, the same from every replica: aggregate by max, never by sum."
_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True)
class Owed:
    """One thing owed: its id, where it goes, what it asks for, its JSON-able payload (ids and keys only).

    What is owed of one `aggregate`, as "template:<id>", is delivered in the order in which it was owed, each once the one before
    it is settled: whoever owes it holds the aggregate's own row locked. Empty: in any order.
    """

    id: UUID
    destination: str
    kind: str
    payload: dict[str, Any]
    available_at: datetime | None = None
    aggregate: str = ""


@dataclass(frozen=True)
class LeasedRow:
    """One leased row as stored; `attempt` counts leases, this one included."""

    tenant_id: UUID
    id: UUID
    destination: str
    kind: str
    payload: bytes
    traceparent: str
    attempt: int
    created_at: datetime


@dataclass(frozen=True)
class Depth:
    """How many rows wait, and when the oldest of them was written."""

    rows: int
    oldest_at: datetime


def traceparent() -> str:
    """The current span as a W3C traceparent, or nothing."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


async def take_on(db: Database, connection: Connection, tenant_id: UUID, owed: Sequence[Owed], at: datetime) -> None:
    """Owe these to others from the commit of this transaction on: what is new. Raises ResourceExhausted (BACKLOG_FULL) while
    the outbox is at its limit; a repeat of what was taken on before owes nothing and is answered."""
    if owed:
        admit(db)
        await append(connection, tenant_id, owed, at)
        db.owed += len(owed)  # until it is counted again


async def append(connection: Connection, tenant_id: UUID, owed: Sequence[Owed], at: datetime) -> None:
    """Owe these to others from the commit of this transaction on, however much is owed already: what follows from what was
    taken on, a row for each at most, and would be lost or stand still if it were refused. All else is `take_on`'s."""
    if not owed:
        return
    await connection.execute(
        sql.append, tenant_id, [o.id for o in owed], [o.destination for o in owed], [o.kind for o in owed],
        [json_bytes(o.payload) for o in owed], traceparent(), at, [o.available_at or at for o in owed],
        [o.aggregate for o in owed],
    )  # fmt: skip


async def lease(
    db: Database,
    *,
    max_rows: int,
    max_tenants: int,
    duration_s: float,
    destinations: Sequence[str],
    at: datetime,
    after: UUID | None = None,
) -> tuple[UUID, list[LeasedRow]]:
    """Lease due rows of up to `max_tenants` tenants for `duration_s` seconds; oldest first within a tenant.

    Only tenants with due rows for one of `destinations` count (none given: for any). Tenants are taken in the order of
    their ids, round and round, from the one that follows `after`; without it from a random one.
    """
    token = uuid4()
    until = at + timedelta(seconds=duration_s)
    rows: list[LeasedRow] = []
    async with db.maintenance() as connection:
        wanted = list(destinations) or [r["destination"] for r in await connection.fetch(sql.destinations)]
        tenants = await _due_tenants(connection, after, wanted, at, min(max_tenants, max_rows))
        for n, tenant in enumerate(tenants):
            # What is left is shared evenly, so that a deep backlog takes no other tenant's part.
            share = -(-(max_rows - len(rows)) // (len(tenants) - n))
            found = await connection.fetch(sql.lease, tenant, at, token, until, share, wanted)
            rows += [LeasedRow(**dict(r)) for r in found]
    return token, rows


async def _due_tenants(
    connection: Connection, after: UUID | None, destinations: list[str], at: datetime, limit: int
) -> list[UUID]:
    # The first tenant of all, and so the last to be come to, is the platform: its id is all zeros.
    start = UUID(int=(after.int + 1) % 2**128) if after else UUID(int=random.getrandbits(128))
    tenants = [r["tenant_id"] for r in await connection.fetch(sql.due_tenants, start, destinations, at, limit)]
    if len(tenants) < limit:
        around = await connection.fetch(sql.due_tenants, UUID(int=0), destinations, at, limit)
        tenants += [r["tenant_id"] for r in around if r["tenant_id"] < start][: limit - len(tenants)]
    return tenants


async def settle(
    db: Database,
    token: UUID,
    delivered: Sequence[tuple[UUID, UUID]],
    failed: Sequence[tuple[UUID, UUID, float, str]],
    at: datetime,
) -> tuple[int, int]:
    """Remove delivered (tenant, id) rows; put failed (tenant, id, delay in seconds, error class) rows back.

    Returns how many of each still stood under this lease.
    """
    gone = back = 0
    async with db.maintenance() as connection:
        if delivered:
            gone = affected(
                await connection.execute(
                    sql.settle_delivered, [t for t, _ in delivered], [i for _, i in delivered], token
                )
            )
        if failed:
            back = affected(
                await connection.execute(
                    sql.settle_failed,
                    [f[0] for f in failed],
                    [f[1] for f in failed],
                    token,
                    [at + timedelta(seconds=f[2]) for f in failed],
                    [f[3] for f in failed],
                )
            )
    return gone, back


class Gauges:
    """What waits, as metrics."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._rows = meter.create_gauge(
            "penguin.outbox.rows", unit="{row}",
            description=f"Rows that wait to be relayed, by destination, up to {COUNT_LIMIT} in all. {_OF_ALL}",
        )  # fmt: skip
        self._age = meter.create_gauge(
            "penguin.outbox.oldest_age", unit="s", description=f"Age of the oldest of them, by destination. {_OF_ALL}"
        )
        self._shown: set[str] = set()

    def show(self, waiting: Mapping[str, Depth], at: datetime) -> None:
        """Tell of these. A destination that is owed nothing any more is told of as such: a gauge that falls silent keeps its last
        value."""
        for name in self._shown | set(waiting):
            depth = waiting.get(name, Depth(0, at))
            self._rows.set(depth.rows, {"destination": name})
            self._age.set(max(0.0, (at - depth.oldest_at).total_seconds()), {"destination": name})
        self._shown |= set(waiting)


_gauges = Gauges(metrics.get_meter("penguin.outbox"))


async def measure(db: Database, at: datetime, gauges: Gauges = _gauges) -> None:
    """Count what waits, for `admit` and as metrics."""
    waiting = await depths(db)
    db.owed = sum(each.rows for each in waiting.values())
    gauges.show(waiting, at)


def admit(db: Database) -> None:
    """Refuse what would owe still more while the outbox is at its limit (100,000 rows; a row may owe for a batch). It is counted
    every two seconds: other processes may pass it by what they write meanwhile.

    Raises ResourceExhausted (BACKLOG_FULL): what has been taken on is kept, and nothing new is.
    """
    if db.owed >= COUNT_LIMIT:
        raise ResourceExhausted(
            f"{COUNT_LIMIT} rows wait to be relayed already.", reason="BACKLOG_FULL", retry_after_s=5.0
        )


async def depths(db: Database) -> dict[str, Depth]:
    """What waits, by destination (exact up to 100,000 rows in all)."""
    async with db.maintenance() as connection:
        rows = await connection.fetch(sql.depths, COUNT_LIMIT)
    return {row["destination"]: Depth(row["rows"], row["oldest_at"]) for row in rows}


async def depth(db: Database) -> tuple[int, datetime | None]:
    """How many rows wait (exact up to 100,000) and when the oldest of those was written."""
    waiting = (await depths(db)).values()
    return sum(each.rows for each in waiting), min((each.oldest_at for each in waiting), default=None)


async def oldest(db: Database, tenant_id: UUID) -> dict[str, datetime]:
    """Since when something of this tenant's waits, by destination. It is the platform's question: it takes no place of the tenant's,
    and is answered while those are all in use."""
    async with db.maintenance() as connection:
        rows = await connection.fetch(sql.oldest_of_tenant, tenant_id)
    return {row["destination"]: row["oldest_at"] for row in rows}
