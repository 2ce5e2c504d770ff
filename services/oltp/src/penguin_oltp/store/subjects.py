"""People erased: barred by their HMAC, taken out of leads and inboxes, made nameless in the ledger; and what is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson

from penguin_chassis import barrier, outbox, subjects
from penguin_chassis.barrier import Step
from penguin_chassis.faults import AlreadyExists, FailedPrecondition
from penguin_chassis.pool import Connection, Database, affected, alone
from penguin_chassis.queries import load
from penguin_chassis.subjects import Mention, Order, Page, Phase, SubjectRecord
from penguin_oltp.domain.emails import QUEUED
from penguin_oltp.domain.subjects import ERASED, Erasure, Export, Item, Items, Receipt, pads
from penguin_oltp.store.rows import columns, read
from penguin_oltp.store.transitions import take_back

sql = load("penguin_oltp.store", "subjects.sql")
mention_sql = load("penguin_oltp.store", "mentions.sql")
inbox_sql = load("penguin_oltp.store", "inbox.sql")

FIRST = UUID(int=0)
# Whoever writes addresses does so beside the others; who bars one waits until they have ended, or will see the bar.
WRITING = "penguin.people"
# Queued emails taken back by SuppressSubject; emails made nameless in one page.
TAKEN_BACK = 5_000
EMAILS_A_PAGE = 500
EXPORTS = {
    "leads": sql.export_leads,
    "emails": sql.export_emails,
    "inbox_message_refs": sql.export_messages,
    "suppressions": sql.export_suppressions,
    "users": sql.export_users,
}


@dataclass(frozen=True)
class Suppressed:
    """What SuppressSubject did: emails taken back, what of the tenant's own has the address, and whether it was this
    call that barred it."""

    cancelled: int
    own: list[Mention]
    here: bool


class SubjectStore:
    """Subjects of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def suppress(self, step: Step, erasure_id: UUID, subject: str, key: bytes, address: str) -> Suppressed:
        """Bar the address and take back what is queued for it. As a compensation, lift what its action put."""
        tenant_id, digest = step.tenant_id, bytes.fromhex(subject)
        async with self._db.tenant(tenant_id) as connection:
            await alone(connection, tenant_id, WRITING)
            if (done := await barrier.claim(connection, step, Suppressed)) is not None:
                return done.reply
            if step.operation == barrier.COMPENSATION:
                was = await barrier.undone(connection, step, Suppressed)
                if was is not None and was.here:
                    await connection.execute(sql.lift, tenant_id, digest)
                return await barrier.record(connection, step, Suppressed(0, [], here=False), Suppressed)
            await connection.execute(sql.put_key, tenant_id, *pads(key))
            here = await connection.fetchval(sql.bar, tenant_id, digest, erasure_id, step.at) is not None
            queued = [r["id"] for r in await connection.fetch(sql.queued_of, tenant_id, address, TAKEN_BACK)]
            cancelled = await take_back(connection, tenant_id, queued, step.at)
            own = [Mention(*row) for row in await connection.fetch(sql.own, tenant_id, address)]
            return await barrier.record(connection, step, Suppressed(len(cancelled), own, here), Suppressed)

    async def items(self, tenant_id: UUID, address: str, after: tuple[str, UUID] | None, limit: int) -> Items:
        """Emails to the address, and then messages of theirs; of messages a page is looked at, and may have none."""
        kind, place = after or ("emails", FIRST)
        async with self._db.tenant(tenant_id) as connection:
            if kind == "emails":
                rows = await connection.fetch(sql.emails_of, tenant_id, address, place, limit)
                found = [Item(r["id"], None, r["content_storage_key"], r["status"] == "cancelled") for r in rows]
                return Items(found, ("emails", rows[-1]["id"]) if len(rows) == limit else ("messages", FIRST))
            rows = await connection.fetch(sql.messages_of, tenant_id, place, limit, address, [address])
        found = [Item(None, r["id"], r["content_storage_key"], cancelled=False) for r in rows if r["theirs"]]
        return Items(found, ("messages", rows[-1]["id"]) if len(rows) == limit else None)

    async def record(self, step: Step, erasure: Erasure) -> Erasure:
        """Keep the receipts of an erasure; of one recorded before, in their place."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Erasure)) is not None:
                return done.reply
            await connection.execute(
                sql.put_erasure, erasure.tenant_id, erasure.id, erasure.subject, erasure.recorded_at
            )
            receipts = erasure.receipts
            await connection.execute(
                sql.put_receipts, erasure.tenant_id, erasure.id, [r.tier for r in receipts],
                [orjson.dumps(r.counts).decode() for r in receipts], [r.chain_head for r in receipts],
                [r.erased_at for r in receipts], [orjson.dumps(r.mentions).decode() for r in receipts],
                [r.mentioned for r in receipts], [r.skipped_by for r in receipts],
            )  # fmt: skip
            return await barrier.record(connection, step, erasure, Erasure)

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int) -> list[Erasure]:
        """Up to `limit` erasures after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            rows = await connection.fetch(sql.list, tenant_id, after, limit)
            told = await connection.fetch(sql.receipts, tenant_id, [row["id"] for row in rows])
        receipts: dict[UUID, list[Receipt]] = {}
        for row in told:
            receipts.setdefault(row["erasure_id"], []).append(_receipt(row))
        return [Erasure(**dict(row), receipts=tuple(receipts.get(row["id"], ()))) for row in rows]

    async def record_export(self, step: Step, export: Export) -> Export:
        """Put on record who has whose data exported. Raises AlreadyExists where another export has its id."""
        async with self._db.tenant(step.tenant_id) as connection:
            if (done := await barrier.claim(connection, step, Export)) is not None:
                return done.reply
            if await connection.fetchval(sql.put_export, *columns(export)) is None:
                raise AlreadyExists("An export with this id is on record.", field="export_id")
            return await barrier.record(connection, step, export, Export)

    async def list_exports(self, tenant_id: UUID, after: UUID, limit: int, subject: str) -> list[Export]:
        """Up to `limit` exports after an id, in the order of their ids; of one person, where given."""
        async with self._db.tenant(tenant_id) as connection:
            found = await connection.fetch(sql.list_exports, tenant_id, after, limit, subject)
        return [read(Export, row) for row in found]

    def phases(self, order: Order) -> Sequence[Phase]:
        """Messages first: which copies of sent mail are theirs is known by their emails. Emails before leads, which they
        refer to. What is left that has the address is somebody else's."""
        looks = [Phase(f"look_{name}", subjects.mentions(name, query)) for name, query in mention_sql.names().items()]
        return (
            Phase("messages", _remove_messages), Phase("emails", _anonymise), Phase("leads", _remove_leads),
            Phase("suppressions", _remove_suppressions), *looks,
        )  # fmt: skip

    async def export(self, tenant_id: UUID, address: str, storage_keys: Sequence[str]) -> AsyncIterator[SubjectRecord]:
        """Leads, emails with their events and attempts, messages, suppressions, users."""
        for table, query in EXPORTS.items():
            async for record in subjects.exported(self._db, tenant_id, table, query, address):
                yield record


def erased(field: str) -> FailedPrecondition:
    """The refusal of what would bring somebody back."""
    return FailedPrecondition("The person was erased, and stays so.", reason="SUBJECT_ERASED", field=field)


async def erased_among(connection: Connection, tenant_id: UUID, addresses: Iterable[str]) -> set[str]:
    """Those of these addresses whose people were erased."""
    return {row["address"] for row in await connection.fetch(sql.erased_among, tenant_id, sorted(set(addresses)))}


def kept_too(found: Sequence[Any]) -> list[outbox.Owed]:
    """What Content is owed where contents have come whose people a legal hold keeps: the hold's new keys. `found`: rows of the
    hold's id and a storage key."""
    keys: dict[UUID, list[str]] = {}
    for row in found:
        keys.setdefault(row["id"], []).append(row["content_storage_key"])
    return [
        outbox.Owed(uuid4(), "content", "extend_legal_hold", {"hold_id": str(hold), "storage_keys": theirs})
        for hold, theirs in keys.items()
    ]


async def refuse_held(connection: Connection, tenant_id: UUID, letters: Mapping[UUID, str]) -> None:
    """Raise FailedPrecondition (LEGAL_HOLD) where a hold keeps one of these letters, by its person or by its key; `letters`: keys by
    ids. Whoever removes them has barred new holds (`no_new_holds`)."""
    if (hold := await connection.fetchval(inbox_sql.kept, tenant_id, list(letters))) is not None:
        raise subjects.kept_by(hold)
    await subjects.check(connection, tenant_id, "", list(letters.values()))


def _receipt(row: Any) -> Receipt:
    return Receipt(
        row["tier"], orjson.loads(row["counts"]), row["chain_head"], row["erased_at"],
        [tuple(each) for each in orjson.loads(row["mentions"])], row["mentioned"],
        row["skipped_by"],
    )  # fmt: skip


async def _remove_messages(connection: Connection, order: Order, after: str) -> Page:
    """The next of the letters; their contents are owed to Content, as one that came in since the keys were collected is known
    nowhere else. So is a hold on it: nobody asked before the pivot whether one keeps it, and Content would.

    Copies of what was sent to people erased before go, too: from before such copies were refused, and whose is not known any
    more. But where any hold stands they may be what it keeps.
    """
    place = UUID(after) if after else FIRST
    held = await connection.fetchval(sql.held_at_all, order.tenant_id)
    recipients = [order.address] if held else [order.address, ERASED]
    rows = await connection.fetch(sql.messages_of, order.tenant_id, place, subjects.SCANNED, order.address, recipients)
    theirs = {row["id"]: row["content_storage_key"] for row in rows if row["theirs"]}
    if theirs:
        await refuse_held(connection, order.tenant_id, theirs)
    removed = await connection.fetch(sql.remove_messages, order.tenant_id, list(theirs))
    gone = sorted({row["content_storage_key"] for row in removed})
    owed = [outbox.Owed(uuid4(), "content", "delete_contents", {"storage_keys": gone})] if gone else []
    await outbox.append(connection, order.tenant_id, owed, order.at)
    more = str(rows[-1]["id"]) if len(rows) == subjects.SCANNED else None
    return Page({"inbox_message_refs": len(theirs)} if theirs else {}, next=more)


async def _anonymise(connection: Connection, order: Order, _: str) -> Page:
    """The next of the emails: those done are no longer found. A hold on the key of one may have been put since the pivot."""
    tenant_id = order.tenant_id
    rows = await connection.fetch(sql.lock_emails, tenant_id, order.address, EMAILS_A_PAGE)
    ids = [row["id"] for row in rows]
    if not ids:
        return Page()
    await subjects.check(connection, tenant_id, "", [row["content_storage_key"] for row in rows])
    await take_back(connection, tenant_id, [row["id"] for row in rows if row["status"] == QUEUED], order.at)
    notes = affected(await connection.execute(sql.clear_notes, tenant_id, ids))
    event_ids = affected(await connection.execute(sql.clear_event_ids, tenant_id, ids))
    await connection.execute(sql.anonymise, tenant_id, ids, ERASED)
    counts = {"emails": len(ids), "email_attempts": notes, "email_event_ids": event_ids}
    return Page({table: n for table, n in counts.items() if n}, next="" if len(ids) == EMAILS_A_PAGE else None)


async def _remove_leads(connection: Connection, order: Order, _: str) -> Page:
    tenant_id = order.tenant_id
    leads = [row["id"] for row in await connection.fetch(sql.leads_of, tenant_id, order.address)]
    if not leads:
        return Page()
    rows = await connection.fetch(sql.emails_of_leads, tenant_id, leads, EMAILS_A_PAGE)
    await connection.execute(sql.unlink, tenant_id, [row["id"] for row in rows])
    if len(rows) == EMAILS_A_PAGE:
        return Page(next="")
    return Page({"leads": affected(await connection.execute(sql.remove_leads, tenant_id, leads))})


async def _remove_suppressions(connection: Connection, order: Order, _: str) -> Page:
    gone = affected(await connection.execute(sql.remove_suppressions, order.tenant_id, order.address))
    return Page({"suppressions": gone} if gone else {})
