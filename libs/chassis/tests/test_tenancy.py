"""The tenants a tier knows of: made, closed and opened once, taken back only by what made them, and heeded by the gate."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime
from uuid import UUID, uuid4

from penguin_chassis import tenancy
from penguin_chassis.barrier import ACTION, COMPENSATION, Step
from penguin_chassis.pool import Database
from penguin_chassis.tenancy import ACTIVE, CLOSED, ClosedTenants


def step(tenant: UUID, saga: UUID, name: str = "s", operation: str = ACTION) -> Step:
    return Step(tenant, f"saga:{saga}:{name}", hashlib.sha256(name.encode()).digest(), datetime.now(UTC), operation)


async def test_only_what_made_a_tenant_known_takes_it_back(db: Database, tenant: UUID) -> None:
    first, second = uuid4(), uuid4()
    made = await tenancy.provision(db, step(tenant, first))
    assert (made.state, made.provisioned_at is not None) == (ACTIVE, True)
    assert await tenancy.provision(db, step(tenant, second)) == made
    # The second found it there: undoing it undoes nothing.
    assert (await tenancy.provision(db, step(tenant, second, operation=COMPENSATION))).provisioned_at
    gone = await tenancy.provision(db, step(tenant, first, operation=COMPENSATION))
    assert (gone.state, gone.provisioned_at) == (ACTIVE, None)


async def test_closing_is_undone_by_its_own_compensation_alone(db: Database, tenant: UUID) -> None:
    first, second = uuid4(), uuid4()
    assert (await tenancy.close(db, step(tenant, first))).state == CLOSED
    assert (await tenancy.close(db, step(tenant, second))).state == CLOSED
    assert (await tenancy.close(db, step(tenant, second, operation=COMPENSATION))).state == CLOSED
    assert (await tenancy.close(db, step(tenant, first, operation=COMPENSATION))).state == ACTIVE
    assert (await tenancy.reopen(db, step(tenant, second, "again"))).state == ACTIVE
    again = await tenancy.close(db, step(tenant, second, "once more"))
    assert await tenancy.close(db, step(tenant, second, "once more")) == again


async def test_what_was_written_is_heeded_and_an_earlier_look_says_nothing(db: Database, tenant: UUID) -> None:
    closed = ClosedTenants()
    assert tenant not in closed
    assert None not in closed
    await tenancy.close(db, step(tenant, uuid4()))
    await closed.refresh(db)
    assert tenant in closed
    async with db.tenant(tenant) as connection:
        # Two looks that begin in turn and end the other way round: the later one counts.
        await connection.execute("LOCK TABLE tier_tenants IN ACCESS EXCLUSIVE MODE")
        looks = [asyncio.create_task(closed.refresh(db)) for _ in range(2)]
        await asyncio.sleep(0.05)
        await connection.execute("UPDATE tier_tenants SET state = 'active' WHERE tenant_id = $1", tenant)
    await asyncio.gather(*looks)
    assert tenant not in closed
