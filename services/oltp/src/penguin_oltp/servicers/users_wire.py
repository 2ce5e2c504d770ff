"""Users between the wire and the domain."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from penguin.oltp.v1 import user_service_pb2 as pb
from penguin_chassis.wire import stamp
from penguin_oltp.domain.users import User
from penguin_oltp.servicers.changes import changes


def new_user(tenant_id: UUID, item: pb.NewUser, at: datetime) -> User:
    """A user as it begins."""
    return User(
        tenant_id=tenant_id,
        id=UUID(item.id),
        email=item.email,
        display_name=item.display_name,
        roles=tuple(item.roles),
        version=1,
        created_at=at,
        updated_at=at,
    )


def user(row: User) -> pb.User:
    """A user as it stands."""
    return pb.User(
        id=str(row.id),
        tenant_id=str(row.tenant_id),
        email=row.email,
        display_name=row.display_name,
        roles=row.roles,
        created_at=stamp(row.created_at),
        updated_at=stamp(row.updated_at),
        etag=str(row.version),
    )


def changed_user(request: pb.UpdateUserRequest) -> dict[str, Any]:
    """What an update changes."""
    return changes(request, request.user, required=("email",), roles=tuple(request.user.roles))
