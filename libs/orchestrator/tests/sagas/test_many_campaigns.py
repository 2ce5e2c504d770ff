"""A tenant with more campaigns than the journal has room for is closed all the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID, uuid4

import orjson
import pytest
from libs.orchestrator.tests.sagas.scenarios import World
from services.oltp.tests.rows import make_tenant

from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.sagas import tenants
from penguin_orchestrator.sagas.deeds import Deed

JOURNALED = 65_536
MANY = 1_800
RUN = (
    "INSERT INTO campaigns (tenant_id, id, name, audience_list, status, created_at, updated_at)"
    " SELECT $1, gen_random_uuid(), 'c', 'a', 'running', now(), now() FROM generate_series(1, $2)"
)
STATUSES = "SELECT status, count(*) AS many FROM campaigns WHERE tenant_id = $1 GROUP BY status"


async def running(world: World, many: int) -> UUID:
    """A tenant with so many campaigns."""
    tenant = await make_tenant(world.dbs["oltp"])
    await world.rows("oltp", tenant, RUN, many)
    return tenant


def test_what_a_survey_names_has_room_in_the_journal() -> None:
    assert len(orjson.dumps({"campaigns": [str(uuid4())] * tenants.SURVEYED})) < JOURNALED


@pytest.mark.parametrize("many", [8, MANY])
async def test_campaigns_beyond_those_named_are_paused_too(
    world: World, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    tenant = await running(world, many)
    if many == MANY:
        monkeypatch.setattr(tenants, "_pause", _at_once(world))
    else:
        monkeypatch.setattr(tenants, "SURVEYED", 3)
        monkeypatch.setattr(tenants, "PAGE", 2)
    await Penguin(world.tiers).tenants.close(tenant)
    assert [tuple(row) for row in await world.rows("oltp", tenant, STATUSES)] == [("paused", many)]


def _at_once(world: World) -> Callable[[Deed, Iterable[str]], Awaitable[None]]:
    """Pauses in one statement what would be as many calls."""

    async def pause(deed: Deed, campaigns: Iterable[str]) -> None:
        await world.rows(
            "oltp", deed.tenant_id,
            "UPDATE campaigns SET status = 'paused' WHERE tenant_id = $1 AND id = ANY ($2::uuid[])", list(campaigns),
        )  # fmt: skip

    return pause
