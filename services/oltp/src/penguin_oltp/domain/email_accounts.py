"""The mailboxes a tenant sends from. The secret of none is here, only the path to it in the vault."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class MailServer:
    """Where a mailbox is reached."""

    host: str = ""
    port: int = 0
    tls: bool = False
    username: str = ""


@dataclass(frozen=True)
class EmailAccount:
    """One mailbox. `daily_limit`: most emails a day, 0 without a limit of its own."""

    tenant_id: UUID
    id: UUID
    email: str
    display_name: str
    provider: str
    status: str
    vault_key_path: str
    smtp: MailServer
    imap: MailServer
    daily_limit: int
    last_warmed_at: datetime | None
    domain_id: UUID | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Mailbox:
    """A mailbox and what the ledger says it has sent today (UTC)."""

    account: EmailAccount
    daily_count: int

    @property
    def id(self) -> UUID:
        """The mailbox's id."""
        return self.account.id
