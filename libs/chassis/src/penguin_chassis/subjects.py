"""Erasing and exporting a person: what every tier does alike, and the shape of what each does for itself.

A tier's part is a list of phases, each a page at a time, in one transaction with the record of the call. A phase that
only looks (`mentions`) lists places and changes nothing. What is found by is the address in lower case; it is kept nowhere.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import orjson

from penguin_chassis import addresses, barrier
from penguin_chassis.barrier import Step
from penguin_chassis.faults import FailedPrecondition, InvalidArgument
from penguin_chassis.queries import load

if TYPE_CHECKING:
    from penguin_chassis.pool import Connection, Database

sql = load("penguin_chassis.sql", "subjects.sql")

# Rows that a page looks at.
SCANNED = 2_000
# Pages of one call come one after the other until this long has passed (seconds): far below a call's own limit.
CALL_S = 2.0
# Mentions told by one call at most, give or take a page.
MENTIONS = 1_000


@dataclass(frozen=True)
class Mention:
    """Where the address stands in what is not the subject's own."""

    table: str
    key: str
    place: str


@dataclass(frozen=True)
class Order:
    """One call of an erasure: whom, by which record of the ledger, and what is known to be theirs."""

    tenant_id: UUID
    erasure_id: UUID
    subject: str
    # In lower case.
    address: str
    at: datetime
    storage_keys: tuple[str, ...] = ()
    email_ids: tuple[UUID, ...] = ()
    # Lists of people, which are theirs where they stand in them.
    list_keys: tuple[str, ...] = ()

    @property
    def pattern(self) -> str:
        """The address as a regular expression that does not match within a longer one."""
        return addresses.pattern(self.address)


@dataclass
class Page:
    """What one page did; `next` is where the phase goes on, None where it is through."""

    counts: dict[str, int] = field(default_factory=dict)
    mentions: list[Mention] = field(default_factory=list)
    next: str | None = None


@dataclass(frozen=True)
class Phase:
    """One thing to do, page after page. `run` takes where to go on: empty at first."""

    name: str
    run: Callable[[Connection, Order, str], Awaitable[Page]]


@dataclass(frozen=True)
class Told:
    """The answer to one call, as it is remembered."""

    counts: dict[str, int]
    mentions: list[Mention]
    cursor: str
    at: datetime


@dataclass(frozen=True)
class SubjectRecord:
    """One row of the subject's."""

    table: str
    key: str
    record: bytes


class SubjectDuties(Protocol):
    """A tier's own part."""

    def phases(self, order: Order) -> Sequence[Phase]:
        """What is to be done for this call, in order; the same for every call of the same kind."""

    def export(self, tenant_id: UUID, address: str, storage_keys: Sequence[str]) -> AsyncIterator[SubjectRecord]:
        """Every row of the subject's."""


async def erase(db: Database, duties: SubjectDuties, step: Step, order: Order, cursor: str) -> Told:
    """Carry the erasure on from `cursor` for a while. Raises FailedPrecondition (LEGAL_HOLD), InvalidArgument (cursor)."""
    phases = [*duties.phases(order)]
    if not order.storage_keys and not order.email_ids and not order.list_keys:
        phases += [Phase("answers", forget_answers), Phase("owed", mentions("outbox", sql.scan_outbox))]
    number, after = _place(cursor, len(phases))
    page = Page()
    ends = time.monotonic() + CALL_S
    async with db.tenant(order.tenant_id) as connection:
        if (done := await barrier.claim(connection, step, Told)) is not None:
            return done.reply
        await connection.execute(sql.no_new_holds)
        await check(connection, order.tenant_id, order.subject, order.storage_keys)
        while number < len(phases) and time.monotonic() < ends and len(page.mentions) < MENTIONS:
            done_now = await phases[number].run(connection, order, after)
            for table, count in done_now.counts.items():
                page.counts[table] = page.counts.get(table, 0) + count
            page.mentions += done_now.mentions
            number, after = (number, done_now.next) if done_now.next is not None else (number + 1, "")
        left = "" if number == len(phases) else f"{number}:{after}"
        return await barrier.record(connection, step, Told(page.counts, page.mentions, left, order.at), Told)


def _place(cursor: str, phases: int) -> tuple[int, str]:
    number, _, after = cursor.partition(":")
    if not number:
        return 0, ""
    if not number.isdecimal() or int(number) >= phases:
        raise InvalidArgument("The cursor is not one of this method.", field="cursor")
    return int(number), after


async def check(connection: Connection, tenant_id: UUID, subject: str, keys: Sequence[str]) -> None:
    """Raise FailedPrecondition (LEGAL_HOLD) where a hold stands on the subject or one of the keys."""
    hold = await connection.fetchval(sql.held, tenant_id, subject, list(keys))
    if hold is not None:
        raise kept_by(hold)


async def check_people(connection: Connection, tenant_id: UUID) -> None:
    """Raise FailedPrecondition (LEGAL_HOLD) where a hold stands on anybody: for rows that do not tell whose they are."""
    hold = await connection.fetchval(sql.held_person, tenant_id)
    if hold is not None:
        raise kept_by(hold)


def kept_by(hold: UUID) -> FailedPrecondition:
    """The refusal of whatever a hold forbids."""
    return FailedPrecondition("A legal hold keeps it.", reason="LEGAL_HOLD", metadata={"hold": str(hold)})


async def held_among(connection: Connection, tenant_id: UUID, keys: Sequence[str]) -> set[str]:
    """Those of the keys that a hold keeps; until the transaction ends there are no others. Before any row is locked."""
    await connection.execute(sql.no_new_holds)
    return {row["storage_key"] for row in await connection.fetch(sql.held_keys, tenant_id, list(keys))}


def mentions(table: str, query: str, limit: int = SCANNED) -> Callable[[Connection, Order, str], Awaitable[Page]]:
    """A phase that looks through a table by `query`: tenant, key to go on after, limit and
    the address's pattern give keys and places."""

    async def run(connection: Connection, order: Order, after: str) -> Page:
        rows = await connection.fetch(query, order.tenant_id, after, limit, order.pattern)
        found = [Mention(table, row["key"], place) for row in rows for place in row["places"]]
        return Page(mentions=found, next=rows[-1]["key"] if len(rows) == limit else None)

    return run


def doomed(
    table: str, scan: str, remove: str, limit: int = SCANNED
) -> Callable[[Connection, Order, str], Awaitable[Page]]:
    """A phase that looks through a table as `mentions` does and runs `remove` (tenant, keys) on what it finds."""

    async def run(connection: Connection, order: Order, after: str) -> Page:
        rows = await connection.fetch(scan, order.tenant_id, after, limit, order.pattern)
        keys = [row["key"] for row in rows if row["places"]]
        if keys:
            await connection.execute(remove, order.tenant_id, keys)
        return Page({table: len(keys)} if keys else {}, next=rows[-1]["key"] if len(rows) == limit else None)

    return run


async def forget_answers(connection: Connection, order: Order, after: str) -> Page:
    """Answers and refusals that hold the address are forgotten, and their steps barred."""
    key, operation = orjson.loads(after) if after else ("", "")
    rows = await connection.fetch(sql.scan_barrier, order.tenant_id, key, operation, SCANNED, order.pattern)
    hits = [(row["key"], row["operation"]) for row in rows if row["hit"]]
    if hits:
        await connection.execute(sql.forget_answers, order.tenant_id, [h[0] for h in hits], [h[1] for h in hits])
    more = orjson.dumps([rows[-1]["key"], rows[-1]["operation"]]).decode() if len(rows) == SCANNED else None
    return Page({"step_barrier": len(hits)} if hits else {}, next=more)


async def exported(
    db: Database, tenant_id: UUID, table: str, query: str, *more: Any, limit: int = 500
) -> AsyncIterator[SubjectRecord]:
    """Rows of one table, page by page: `query` takes tenant, key to go on after, limit and more; gives key, hit and record."""
    after = ""
    while True:
        async with db.tenant(tenant_id) as connection:
            rows = await connection.fetch(query, tenant_id, after, limit, *more)
        for row in rows:
            if row["record"] is not None:
                yield SubjectRecord(table, row["key"], row["record"].encode())
        if len(rows) < limit:
            return
        after = rows[-1]["key"]
