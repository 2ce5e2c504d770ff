"""SuppressionService: every method, by its contract: the addresses a tenant must not write to."""

from __future__ import annotations

from typing import Any

from services.oltp.tests.rows import new_suppression
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import suppression_service_pb2 as pb


async def new(world: World) -> Any:
    return new_suppression()


RESOURCE = Resource(
    pb,
    "Suppression",
    "Suppressions",
    new,
    bad=("address", lambda item: setattr(item, "address", "x")),
    update={},
    differ=lambda item: setattr(item, "address", "other@example.com"),
)


class TestSuppressionService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = standard(RESOURCE)
