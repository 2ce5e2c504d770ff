"""Reconcile run once all has come to rest and its generations are closed: it finds nothing but bodies that died with who put them."""

from __future__ import annotations

import asyncio

from tests.simulation.acts import Play, Tenant

from penguin_orchestrator.reconciling.receipts import FOUND, Terms
from penguin_orchestrator.reconciling.running import CLOSED_AFTER, Reconciler

# Keys that are kept, and nobody's row has.
BODIES = "SELECT storage_key FROM content_objects WHERE tenant_id = $1 AND state = 'unclaimed' AND claim_by < $2"
REFERRED = """SELECT content_storage_key FROM emails WHERE tenant_id = $1
UNION ALL SELECT content_storage_key FROM templates WHERE tenant_id = $1"""


async def reconciled(play: Play, tenant: Tenant) -> list[str]:
    """What a run found that is not so, or did not find. Takes hours, of which nobody waits for any."""
    world = play.world
    await asyncio.sleep(CLOSED_AFTER.total_seconds() + 3700)
    referred = {row[0] for row in await world.rows("oltp", REFERRED, tenant.id)}
    bodies = {row[0] for row in await world.rows("content", BODIES, tenant.id, world.dbs["content"].now())}
    reconciler = Reconciler(world.process().tiers, world.loop.wall, ledger=world.ledger)
    run = await reconciler.run(Terms(apply=True, tenant_id=tenant.id))
    if run.refused_reason:
        return [f"reconcile of {tenant.mark}: refused, {run.refused_reason}"]
    expected = {f"{FOUND}orphans": len(bodies - referred)}
    found = {name: count for name, count in run.counts.items() if name.startswith(FOUND) and count}
    wrong = {name: count for name, count in found.items() if count != expected.get(name, 0)}
    wrong |= {name: 0 for name, count in expected.items() if count and name not in found}
    return [
        f"reconcile of {tenant.mark}: {name} is {count}, and should be {expected.get(name, 0)}"
        for name, count in wrong.items()
    ]
