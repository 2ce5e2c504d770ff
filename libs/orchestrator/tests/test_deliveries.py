"""What is owed on a tenant's behalf comes to an end though the tenant is closed before it is delivered."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from libs.orchestrator.tests.sagas.conftest import world
from libs.orchestrator.tests.sagas.scenarios import World
from services.oltp.tests.rows import make_tenant

from penguin_chassis import outbox
from penguin_chassis.clock import now
from penguin_chassis.outbox import Owed
from penguin_orchestrator.deliveries import DELIVERIES
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.relay import Relay

__all__ = ["world"]

KEYS = {"storage_keys": ["k"]}
OWED: dict[tuple[str, str], dict[str, Any]] = {
    ("content", "claim_contents"): KEYS,
    ("content", "delete_contents"): KEYS,
    ("content", "extend_legal_hold"): {"hold_id": str(uuid4())} | KEYS,
    ("queue", "enqueue_jobs"): {"kind": "email.send", "jobs": [{"email_id": str(uuid4())}]},
    ("notifications", "create_notifications"): {"notifications": [{"type": "campaign.completed", "title": "Done"}]},
    ("notifications", "create_admin_events"): {
        "events": [{"event_type": "saga.stuck", "severity": "error", "description": "A saga is stuck."}]
    },
}


async def owe(world: World, tenant: UUID, owed: Owed) -> None:
    """As a tier does."""
    async with world.dbs["oltp"].tenant(tenant) as connection:
        await outbox.append(connection, tenant, [owed], now())


@pytest.mark.parametrize(("destination", "kind"), sorted(DELIVERIES), ids=[kind for _, kind in sorted(DELIVERIES)])
async def test_nothing_is_owed_for_ever_on_behalf_of_a_closed_tenant(world: World, destination: str, kind: str) -> None:
    await world.owe_nothing()
    tenant = await make_tenant(world.dbs["oltp"])
    await Penguin(world.tiers).tenants.close(tenant)
    await owe(world, tenant, Owed(uuid4(), destination, kind, OWED[destination, kind]))
    assert await Relay(world.tiers["oltp"], world.tiers, 10).turn() == 1
    left = await world.rows("oltp", tenant, "SELECT kind, last_error FROM outbox WHERE tenant_id = $1")
    assert [tuple(row) for row in left] == []
