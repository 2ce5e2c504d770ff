"""What is owed to a restored tier: one that is restoring is left alone, and one tenant of it that waits keeps nobody waiting."""

from __future__ import annotations

from uuid import UUID

from libs.orchestrator.tests.restored import left_out, restoring
from libs.orchestrator.tests.stored import jobs, owed
from libs.orchestrator.tests.test_relay import job, nothing_owed_before, owe, relay
from services.oltp.tests.rows import make_tenant

from penguin_chassis.pool import Database
from penguin_orchestrator.clients import Tier
from penguin_orchestrator.relay import Relay

__all__ = ["nothing_owed_before", "relay"]


async def test_one_tenant_that_waits_for_its_replay_leaves_no_destination_alone(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database, queue_db: Database
) -> None:
    """And is not asked for all the time."""
    other = await make_tenant(oltp_db)
    for each in (tenant, other):
        await owe(oltp_db, each, job())
    async with left_out(tiers["queue"], tenant):
        assert await relay.turn() == 2
        assert "queue" in relay._away.present()
        assert (await owed(oltp_db, other), await jobs(queue_db, other)) == ([], 1)
        assert await owed(oltp_db, tenant) == [("queue", 1, "UNAVAILABLE RESTORE_NOT_REPLAYED")]
    async with oltp_db.tenant(tenant) as connection:
        waits = await connection.fetchval("SELECT available_at - now() FROM outbox WHERE tenant_id = $1", tenant)
        await connection.execute("UPDATE outbox SET available_at = now() WHERE tenant_id = $1", tenant)
    assert 20 < waits.total_seconds() < 40
    assert await relay.turn() == 1
    assert (await owed(oltp_db, tenant), await jobs(queue_db, tenant)) == ([], 1)


async def test_a_tier_that_is_restoring_is_left_alone_for_a_while(
    relay: Relay, tiers: dict[str, Tier], tenant: UUID, oltp_db: Database
) -> None:
    await owe(oltp_db, tenant, job())
    async with restoring(tiers["queue"]):
        assert await relay.turn() == 1
        assert "queue" not in relay._away.present()
        assert (await owed(oltp_db, tenant))[0][2] == "UNAVAILABLE RESTORE_NOT_REPLAYED"
