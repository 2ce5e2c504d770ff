"""UserService: every method, by its contract: the people who act for a tenant."""

from __future__ import annotations

from typing import Any

from services.oltp.tests.rows import new_user
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import user_service_pb2 as pb


async def new(world: World) -> Any:
    return new_user()


RESOURCE = Resource(
    pb,
    "User",
    "Users",
    new,
    bad=("email", lambda item: setattr(item, "email", "x")),
    update={"display_name": "Other"},
)


class TestUserService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = standard(RESOURCE)
