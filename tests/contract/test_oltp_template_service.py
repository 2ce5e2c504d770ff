"""TemplateService: every method, by its contract: what campaigns are rendered from."""

from __future__ import annotations

from typing import Any

from services.oltp.tests.rows import new_template
from tests.contract.resources import Resource, ResourceContract, standard
from tests.contract.wire import World

from penguin.oltp.v1 import template_service_pb2 as pb


async def new(world: World) -> Any:
    return new_template()


RESOURCE = Resource(
    pb,
    "Template",
    "Templates",
    new,
    bad=("name", lambda item: item.ClearField("name")),
    update={"subject": "Other"},
)


class TestTemplateService(ResourceContract):
    service = RESOURCE.service
    resource = RESOURCE
    cases = standard(RESOURCE)
