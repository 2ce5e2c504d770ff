"""`send`: one email, durable when the command returns."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from penguin.oltp.v1 import email_service_pb2 as email_pb
from penguin.oltp.v1.email_service_pb2_grpc import EmailServiceStub
from penguin_cli.lookups import TenantName, tenant_of
from penguin_cli.onboarding import attachment
from penguin_cli.session import connected
from penguin_cli.surroundings import CommandError, act, root_of, screen
from penguin_orchestrator.messages import OutgoingEmail
from penguin_orchestrator.platform import Penguin

_ON_ITS_WAY = (email_pb.EMAIL_STATUS_QUEUED, email_pb.EMAIL_STATUS_SENDING)
_POLL_S = 0.1


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command(rich_help_panel="The main job")(send)


def send(
    context: typer.Context,
    tenant: TenantName,
    sender: Annotated[str, typer.Option("--from", help="The sender's address.")],
    recipient: Annotated[str, typer.Option("--to", help="The recipient's address.")],
    subject: Annotated[str, typer.Option(help="The subject line.")],
    text: Annotated[str, typer.Option(help="The plain text part.")] = "",
    html: Annotated[str, typer.Option(help="The HTML part.")] = "",
    attach: Annotated[
        list[Path] | None, typer.Option(help="File to attach; may be repeated.", exists=True, dir_okay=False)
    ] = None,
    request_id: Annotated[str | None, typer.Option(help="UUID; the same one again is the same email.")] = None,
    wait: Annotated[
        float, typer.Option(min=0, max=600, help="Wait so many seconds until it has been handed over.")
    ] = 0,
) -> None:
    """Send one email. It is in the ledger, and will be sent, when this returns; prints its id."""
    email = OutgoingEmail(
        recipient=recipient, sender=sender, subject=subject, text=text, html=html,
        attachments=tuple(attachment(path) for path in attach or []),
        request_id=_request_id(request_id),
    )  # fmt: skip
    act(_send(root_of(context), tenant, email, wait))


def _request_id(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        raise typer.BadParameter("must be a UUID", param_hint="--request-id") from None


async def _send(root: Path, tenant: str, email: OutgoingEmail, wait_s: float) -> None:
    if not email.text and not email.html:
        raise CommandError("an email needs --text, --html or both")
    note = screen(errors=True)
    async with connected(root, traced=True) as penguin:
        tenant_id = await tenant_of(penguin, tenant)
        sent = await penguin.send_email(tenant_id, email)
        typer.echo(sent.email_id)
        note.print(
            f"stored under Message-ID {sent.message_id}; `penguin why {sent.email_id} -t {tenant_id}` follows it"
        )
        if wait_s:
            stands = await _await(penguin, tenant_id, sent.email_id, wait_s)
            note.print(f"it is {stands}")
            if stands != "sent":
                raise CommandError(f"after {wait_s:g} s the email is {stands}")


async def _await(penguin: Penguin, tenant_id: UUID, email_id: UUID, wait_s: float) -> str:
    oltp = penguin.tiers["oltp"]
    request = email_pb.GetEmailRequest(tenant_id=str(tenant_id), email_id=str(email_id))
    ends = time.monotonic() + wait_s
    while True:
        status = (await oltp.insist(oltp.stub(EmailServiceStub).GetEmail, request, deadline_s=wait_s)).email.status
        if status not in _ON_ITS_WAY or time.monotonic() > ends:
            return email_pb.EmailStatus.Name(status).removeprefix("EMAIL_STATUS_").lower()
        await asyncio.sleep(_POLL_S)
