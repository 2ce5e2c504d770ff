"""References to mail: the pivot of an import, and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid4

import orjson

from penguin_chassis import barrier, outbox, subjects
from penguin_chassis.barrier import Step
from penguin_chassis.faults import Fault
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.emails import claimable, email_of
from penguin_oltp.domain.inbox import CreatedInboxMessage, InboxMessage
from penguin_oltp.domain.subjects import ERASED
from penguin_oltp.store import constraints, rows
from penguin_oltp.store.subjects import WRITING, erased, kept_too, refuse_held

sql = load("penguin_oltp.store", "inbox.sql")

_PLAIN = (
    "id", "mailbox", "direction", "message_id", "in_reply_to", "thread_id", "sender", "subject", "sent_at",
    "received_at", "content_storage_key", "fingerprint",
)  # fmt: skip
Answer = CreatedInboxMessage | Fault


class InboxStore:
    """Mail references of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create_batch(
        self,
        tenant_id: UUID,
        items: Sequence[tuple[Step, InboxMessage]],
        *,
        gate: Step | None,
        claim_by: datetime,
        generation: int,
        at: datetime,
    ) -> list[Answer]:
        """Add references, and owe "claim the content" for those that are new, in one transaction.

        Answers in the order of `items`: FailedPrecondition (SUBJECT_ERASED) for a copy of a letter to somebody erased. No bar is
        put meanwhile: what is written before one is found by the erasure. Raises FailedPrecondition (CONTENT_CLAIM_EXPIRED) for the whole batch, NotFound
        for an unknown tenant, ResourceExhausted (BACKLOG_FULL) while the outbox is full.
        """
        claimable(claim_by, at)

        async def write(fresh: list[tuple[Step, InboxMessage]]) -> list[Answer]:
            return await _write(self._db, connection, tenant_id, [message for _, message in fresh], generation, at)

        async with self._db.tenant(tenant_id, beside=WRITING) as connection:
            if gate is not None:
                await barrier.claim(connection, gate, bool)
            return await barrier.once_each(connection, items, CreatedInboxMessage, write)

    async def get(self, tenant_id: UUID, message_id: UUID) -> InboxMessage:
        """One reference; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, message_id)
        return _read(rows.found(record, "inbox_message", message_id))

    async def list_page(
        self, tenant_id: UUID, after: UUID, limit: int, *, mailbox: str, thread_id: str
    ) -> list[InboxMessage]:
        """Up to `limit` references after an id, in the order of their ids; of one mailbox, one thread, where given."""
        async with self._db.tenant(tenant_id) as connection:
            if thread_id:
                found = await connection.fetch(sql.list_thread, tenant_id, after, limit, thread_id, mailbox)
            elif mailbox:
                found = await connection.fetch(sql.list_in, tenant_id, after, limit, mailbox)
            else:
                found = await connection.fetch(sql.list, tenant_id, after, limit)
        return [_read(record) for record in found]

    async def find_fingerprints(self, tenant_id: UUID, mailbox: str, fingerprints: Sequence[str]) -> list[str]:
        """Those of the fingerprints that the mailbox has."""
        async with self._db.tenant(tenant_id) as connection:
            found = await connection.fetch(sql.fingerprints, tenant_id, mailbox, list(fingerprints))
        return [record["fingerprint"] for record in found]

    async def delete(self, step: Step, ids: Sequence[UUID]) -> int:
        """Remove references, and owe the deletion of their contents; returns how many there were.

        Raises FailedPrecondition (LEGAL_HOLD), and removes none, where a hold keeps one of them; ResourceExhausted (BACKLOG_FULL).
        """

        async def remove(connection: Connection) -> int:
            await connection.execute(subjects.sql.no_new_holds)
            letters = await connection.fetch(sql.keys_of, step.tenant_id, list(ids))
            await refuse_held(connection, step.tenant_id, {row["id"]: row["content_storage_key"] for row in letters})
            gone = await connection.fetch(sql.delete, step.tenant_id, list(ids))
            owed = _owed("delete_contents", [r["content_storage_key"] for r in gone])
            await outbox.take_on(self._db, connection, step.tenant_id, owed, step.at)
            return len(gone)

        return await rows.once(self._db.tenant(step.tenant_id), step, int, remove)


def _read(record: rows.Record) -> InboxMessage:
    return rows.read(InboxMessage, record, defects=tuple(record["defects"]))


def _owed(kind: str, storage_keys: list[str]) -> list[outbox.Owed]:
    return [outbox.Owed(uuid4(), "content", kind, {"storage_keys": storage_keys})] if storage_keys else []


async def _write(
    db: Database,
    connection: Connection,
    tenant_id: UUID,
    messages: Sequence[InboxMessage],
    generation: int,
    at: datetime,
) -> list[Answer]:
    """Insert the messages that are new; the others are answered with what stands for them."""
    named, barred = rows.firsts(messages), await _to_erased(connection, tenant_id, messages)
    taken = [message for message in named.values() if message.message_id not in barred]
    columns = [[getattr(message, name) for message in taken] for name in _PLAIN]
    columns.append([orjson.dumps(message.defects).decode() for message in taken])
    with constraints.writing(tenant_id):
        new = {record["id"] for record in await connection.fetch(sql.insert, tenant_id, generation, *columns)}
    mailboxes, fingerprints = [m.mailbox for m in messages], [m.fingerprint for m in messages]
    records = await connection.fetch(sql.stored, tenant_id, mailboxes, fingerprints)
    stored = {record["nth"] - 1: record for record in records}
    answers: list[Answer] = []
    claimed: list[str] = []
    for nth, message in enumerate(messages):
        standing = stored.get(nth)
        if standing is None and message.message_id in barred:
            answers.append(erased("message_id"))
            continue
        if standing is None:
            answers.append(constraints.taken("inbox_message", "content_storage_key"))
            continue
        own = message.id in new and named[message.id] is message
        if own:
            claimed.append(message.content_storage_key)
        answers.append(CreatedInboxMessage(standing["id"], standing["content_storage_key"], existed=not own))
    kept = kept_too(await connection.fetch(sql.kept, tenant_id, sorted(new))) if new else []
    await outbox.take_on(db, connection, tenant_id, _owed("claim_contents", claimed) + kept, at)
    return answers


async def _to_erased(connection: Connection, tenant_id: UUID, messages: Sequence[InboxMessage]) -> set[str]:
    """Message-IDs among these that are of letters to people who were erased. Asks only where one may be ours."""
    ids = {email_of(message.message_id) for message in messages} - {None}
    found = await connection.fetch(sql.to_erased, tenant_id, sorted(ids, key=str), ERASED) if ids else []
    return {row["message_id"] for row in found}
