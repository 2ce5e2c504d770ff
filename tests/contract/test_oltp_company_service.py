"""CompanyService: every method, by its contract: the organisations that campaigns are run for."""

from __future__ import annotations

from typing import Any

from services.oltp.tests.rows import new_company
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import company_service_pb2 as pb


async def new(world: World) -> Any:
    return new_company()


RESOURCE = Resource(
    pb,
    "Company",
    "Companies",
    new,
    bad=("name", lambda item: item.ClearField("name")),
    update={"name": "Other"},
)


class TestCompanyService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = standard(RESOURCE)
