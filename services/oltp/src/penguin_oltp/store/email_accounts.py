"""Mailboxes. How many emails each has sent today is read from the ledger, and kept nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID

import orjson

from penguin_chassis.barrier import Step
from penguin_chassis.pool import Connection, Database
from penguin_chassis.queries import load
from penguin_oltp.domain.email_accounts import EmailAccount, Mailbox, MailServer
from penguin_oltp.store import rows

sql = load("penguin_oltp.store", "email_accounts.sql")


class EmailAccountStore:
    """Mailboxes of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, step: Step, account: EmailAccount) -> Mailbox:
        """Add one; raises AlreadyExists, FailedPrecondition (REFERENCE_MISSING), NotFound (the tenant)."""

        async def insert(connection: Connection) -> Mailbox:
            await rows.write(connection, sql.insert, _columns(account))
            return Mailbox(account, 0)

        return await rows.once(self._db.tenant(step.tenant_id), step, Mailbox, insert)

    async def get(self, tenant_id: UUID, account_id: UUID, at: datetime) -> Mailbox:
        """One of them; raises NotFound."""
        async with self._db.tenant(tenant_id) as connection:
            record = await connection.fetchrow(sql.get, tenant_id, account_id, _day(at))
        return _mailbox(rows.found(record, "email_account", account_id))

    async def list_page(self, tenant_id: UUID, after: UUID, limit: int, at: datetime) -> list[Mailbox]:
        """Up to `limit` of them after an id, in the order of their ids."""
        async with self._db.tenant(tenant_id) as connection:
            return [_mailbox(r) for r in await connection.fetch(sql.list, tenant_id, after, limit, _day(at))]

    async def update(self, step: Step, account_id: UUID, etag: str, changes: Mapping[str, Any]) -> Mailbox:
        """Change one; raises NotFound, Aborted (ETAG_MISMATCH), AlreadyExists, FailedPrecondition (REFERENCE_MISSING)."""

        async def write(connection: Connection) -> Mailbox:
            record = await connection.fetchrow(sql.hold, step.tenant_id, account_id)
            held = _read(rows.checked(record, "email_account", account_id, etag))
            account = rows.changed(held, changes, step.at)
            await rows.write(connection, sql.update, _columns(account))
            count = await connection.fetchval(sql.count_since, step.tenant_id, account_id, _day(step.at))
            return Mailbox(account, count)

        return await rows.once(self._db.tenant(step.tenant_id), step, Mailbox, write)

    async def delete(self, step: Step, account_id: UUID, etag: str) -> None:
        """Remove one; raises NotFound, Aborted (ETAG_MISMATCH), FailedPrecondition (STILL_REFERENCED)."""

        async def remove(connection: Connection) -> bool:
            await rows.remove(connection, step, "email_account", account_id, etag, hold=sql.hold, delete=sql.delete)
            return True

        await rows.once(self._db.tenant(step.tenant_id), step, bool, remove)


def _day(at: datetime) -> datetime:
    """The beginning of the day (UTC)."""
    return datetime.combine(at.astimezone(UTC).date(), time(), UTC)


def _columns(account: EmailAccount) -> list[Any]:
    return rows.columns(account, smtp=orjson.dumps(account.smtp).decode(), imap=orjson.dumps(account.imap).decode())


def _read(record: rows.Record) -> EmailAccount:
    smtp, imap = (MailServer(**orjson.loads(record[name])) for name in ("smtp", "imap"))
    return rows.read(EmailAccount, record, smtp=smtp, imap=imap)


def _mailbox(record: rows.Record) -> Mailbox:
    return Mailbox(_read(record), record["daily_count"])
