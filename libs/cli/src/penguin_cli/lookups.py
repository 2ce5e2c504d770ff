"""Finds what a person names by a name: tenants, mailboxes, templates; an id is taken as it is. It creates nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import typer

from penguin.oltp.v1 import email_account_service_pb2 as account_pb
from penguin.oltp.v1 import template_service_pb2 as template_pb
from penguin.oltp.v1 import tenant_service_pb2 as tenant_pb
from penguin.oltp.v1.email_account_service_pb2_grpc import EmailAccountServiceStub
from penguin.oltp.v1.template_service_pb2_grpc import TemplateServiceStub
from penguin.oltp.v1.tenant_service_pb2_grpc import TenantServiceStub
from penguin_cli.surroundings import USAGE, CommandError
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.platform import Penguin

DEADLINE_S = 15.0
PAGE = 500

TenantName = Annotated[
    str, typer.Option("--tenant", "-t", envvar="PENGUIN_TENANT", help="The tenant's id or name.", metavar="TENANT")
]


async def each(tier: Tier, method: Any, request: Any, items: str) -> AsyncIterator[Any]:
    """Every item of a paged list; `items` is the reply's field. Raises TierError."""
    while True:
        reply = await tier.insist(method, request, deadline_s=DEADLINE_S)
        for item in getattr(reply, items):
            yield item
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token


def uuid_of(text: str) -> UUID | None:
    """The UUID that the text is, if it is one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def id_of(text: str, what: str) -> UUID:
    """The UUID that the text must be. Raises CommandError."""
    found = uuid_of(text)
    if found is None:
        raise CommandError(f"{text!r} is no {what}'s id (a UUID)", USAGE)
    return found


async def tenant_of(penguin: Penguin, text: str) -> UUID:
    """The tenant of that id or name. Raises CommandError where there is none, or more than one."""
    if (known := uuid_of(text)) is not None:
        return known
    oltp = penguin.tiers["oltp"]
    listed = each(
        oltp, oltp.stub(TenantServiceStub).ListTenants, tenant_pb.ListTenantsRequest(page_size=PAGE), "tenants"
    )
    return _only([each.id async for each in listed if each.name == text], "tenant", text)


async def mailbox_of(penguin: Penguin, tenant_id: UUID, text: str) -> UUID:
    """The mailbox of that id or address. Raises CommandError."""
    if (known := uuid_of(text)) is not None:
        return known
    oltp = penguin.tiers["oltp"]
    request = account_pb.ListEmailAccountsRequest(tenant_id=str(tenant_id), page_size=PAGE)
    listed = each(oltp, oltp.stub(EmailAccountServiceStub).ListEmailAccounts, request, "email_accounts")
    return _only([each.id async for each in listed if each.email.lower() == text.lower()], "mailbox", text)


async def template_of(penguin: Penguin, tenant_id: UUID, text: str) -> UUID:
    """The template of that id or name. Raises CommandError."""
    if (known := uuid_of(text)) is not None:
        return known
    oltp = penguin.tiers["oltp"]
    request = template_pb.ListTemplatesRequest(tenant_id=str(tenant_id), page_size=PAGE)
    listed = each(oltp, oltp.stub(TemplateServiceStub).ListTemplates, request, "templates")
    return _only([each.id async for each in listed if each.name == text], "template", text)


def _only(found: list[str], what: str, text: str) -> UUID:
    if not found:
        raise CommandError(f"there is no {what} {text!r}")
    if len(found) > 1:
        raise CommandError(f"there are {len(found)} {what}s {text!r}; give the id: {', '.join(found[:5])}")
    return UUID(found[0])
