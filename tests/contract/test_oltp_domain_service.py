"""DomainService: every method, by its contract: the sending domains."""

from __future__ import annotations

from typing import Any

from services.oltp.tests.rows import new_domain
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import domain_service_pb2 as pb


async def new(world: World) -> Any:
    return new_domain()


RESOURCE = Resource(
    pb,
    "Domain",
    "Domains",
    new,
    bad=("domain", lambda item: setattr(item, "domain", "no domain")),
    update={"is_primary": False},
)


class TestDomainService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = standard(RESOURCE)
