"""Mailboxes between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import email_account_service_pb2 as pb
from penguin_chassis.wire import number, stamp, text, uuid_or_none, word
from penguin_oltp.domain.email_accounts import EmailAccount, Mailbox, MailServer
from penguin_oltp.servicers.changes import changes


def new_email_account(tenant_id: UUID, item: pb.NewEmailAccount, at: datetime) -> EmailAccount:
    """A mailbox as it begins."""
    return EmailAccount(
        tenant_id=tenant_id,
        id=UUID(item.id),
        email=item.email,
        display_name=item.display_name,
        provider=item.provider,
        status=word(pb.EmailAccountStatus, item.status, "active"),
        vault_key_path=item.vault_key_path,
        smtp=_server(item.smtp),
        imap=_server(item.imap),
        daily_limit=item.daily_limit,
        last_warmed_at=None,
        domain_id=uuid_or_none(item.domain_id),
        version=1,
        created_at=at,
        updated_at=at,
    )


def email_account(mailbox: Mailbox) -> pb.EmailAccount:
    """A mailbox as it stands."""
    row = mailbox.account
    return pb.EmailAccount(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        email=row.email,
        display_name=row.display_name,
        provider=row.provider,
        status=number(pb.EmailAccountStatus, row.status),
        vault_key_path=row.vault_key_path,
        smtp=_wire(row.smtp),
        imap=_wire(row.imap),
        daily_limit=row.daily_limit,
        last_warmed_at=stamp(row.last_warmed_at),
        domain_id=text(row.domain_id),
        daily_count=mailbox.daily_count,
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_email_account(request: pb.UpdateEmailAccountRequest) -> dict[str, Any]:
    """What an update changes."""
    update = request.email_account
    return changes(
        request,
        update,
        required=("email", "status"),
        status=word(pb.EmailAccountStatus, update.status),
        smtp=_server(update.smtp),
        imap=_server(update.imap),
        domain_id=uuid_or_none(update.domain_id),
    )


def _server(server: pb.MailServer) -> MailServer:
    return MailServer(server.host, server.port, server.tls, server.username)


def _wire(server: MailServer) -> pb.MailServer:
    return pb.MailServer(host=server.host, port=server.port, tls=server.tls, username=server.username)
