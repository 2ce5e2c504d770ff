"""UserService on the wire."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from penguin.oltp.v1 import user_service_pb2 as pb
from penguin.oltp.v1 import user_service_pb2_grpc
from penguin_chassis.mutations import now, step_of
from penguin_chassis.pool import Database
from penguin_oltp.servicers import users_wire as wire
from penguin_oltp.servicers.pages import Page
from penguin_oltp.store.users import UserStore


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    """The people who may act for the tenant."""

    def __init__(self, db: Database) -> None:
        self._users = UserStore(db)

    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> pb.CreateUserResponse:
        at = now()
        user = wire.new_user(UUID(request.tenant_id), request.user, at)
        created = await self._users.create(step_of(request, request.user, at=at), user)
        return pb.CreateUserResponse(user=wire.user(created))

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.GetUserResponse:
        found = await self._users.get(UUID(request.tenant_id), UUID(request.user_id))
        return pb.GetUserResponse(user=wire.user(found))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        page = Page(request)
        found = await self._users.list_page(UUID(request.tenant_id), page.after, page.limit)
        return pb.ListUsersResponse(users=map(wire.user, page.shown(found)), next_page_token=page.next(found))

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.UpdateUserResponse:
        changes = wire.changed_user(request)
        updated = await self._users.update(step_of(request), UUID(request.user_id), request.etag, changes)
        return pb.UpdateUserResponse(user=wire.user(updated))

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Any) -> pb.DeleteUserResponse:
        await self._users.delete(step_of(request), UUID(request.user_id), request.etag)
        return pb.DeleteUserResponse()
