"""EmailAccountService: every method, by its contract: the mailboxes."""

from __future__ import annotations

from typing import Any

from services.oltp.tests.rows import new_account
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import email_account_service_pb2 as pb


async def new(world: World) -> Any:
    return new_account()


RESOURCE = Resource(
    pb,
    "EmailAccount",
    "EmailAccounts",
    new,
    bad=("email", lambda item: setattr(item, "email", "x")),
    update={"display_name": "Other", "daily_limit": 9},
)


class TestEmailAccountService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = standard(RESOURCE)
