"""EmailAccountService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import email_account_service_pb2 as pb
from penguin.oltp.v1 import email_account_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import email_accounts_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.email_accounts import EmailAccountStore


class EmailAccountServicer(email_account_service_pb2_grpc.EmailAccountServiceServicer):
    """The mailboxes."""

    def __init__(self, db: Database) -> None:
        self._email_accounts = EmailAccountStore(db)

    async def CreateEmailAccount(
        self, request: pb.CreateEmailAccountRequest, context: Any
    ) -> pb.CreateEmailAccountResponse:
        at = now()
        email_account = wire.new_email_account(UUID(request.tenant_id), request.email_account, at)
        created = await self._email_accounts.create(step_of(request, request.email_account, at=at), email_account)
        return pb.CreateEmailAccountResponse(email_account=wire.email_account(created))

    async def GetEmailAccount(self, request: pb.GetEmailAccountRequest, context: Any) -> pb.GetEmailAccountResponse:
        found = await self._email_accounts.get(UUID(request.tenant_id), UUID(request.email_account_id), now())
        return pb.GetEmailAccountResponse(email_account=wire.email_account(found))

    async def ListEmailAccounts(
        self, request: pb.ListEmailAccountsRequest, context: Any
    ) -> pb.ListEmailAccountsResponse:
        page = Page(request)
        found = await self._email_accounts.list_page(UUID(request.tenant_id), page.after, page.limit, now())
        return pb.ListEmailAccountsResponse(
            email_accounts=map(wire.email_account, page.shown(found)), next_page_token=page.next(found)
        )

    async def UpdateEmailAccount(
        self, request: pb.UpdateEmailAccountRequest, context: Any
    ) -> pb.UpdateEmailAccountResponse:
        changes = wire.changed_email_account(request)
        updated = await self._email_accounts.update(
            step_of(request), UUID(request.email_account_id), request.etag, changes
        )
        return pb.UpdateEmailAccountResponse(email_account=wire.email_account(updated))

    async def DeleteEmailAccount(
        self, request: pb.DeleteEmailAccountRequest, context: Any
    ) -> pb.DeleteEmailAccountResponse:
        await self._email_accounts.delete(step_of(request), UUID(request.email_account_id), request.etag)
        return pb.DeleteEmailAccountResponse()
