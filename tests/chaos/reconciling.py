"""Reconcile after the run, as if the day were over: what faults left behind is found, put aside and deleted, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from tests.chaos.checker import NOTHING_OF
from tests.chaos.looking import overdue

from penguin.oltp.v1 import reconcile_service_pb2 as pb
from penguin_devstack.stack import LocalStack
from penguin_orchestrator.platform import Penguin
from penguin_orchestrator.reconciling.receipts import Terms
from penguin_orchestrator.reconciling.running import CLOSED_AFTER, Reconciler

# By then every generation of the run is closed.
LATER = CLOSED_AFTER + timedelta(hours=2)


async def reconcile(stack: LocalStack, penguin: Penguin, tenants: Sequence[UUID]) -> dict[str, int]:
    """What was put aside and deleted, what else was found and mended, and the runs that were refused. Two runs: what the first
    puts aside the second deletes, having looked again."""
    await overdue(stack, tenants, LATER)
    reconciler = Reconciler(penguin.tiers, lambda: time.time() + LATER.total_seconds())
    done = dict.fromkeys(("quarantined", "deleted", *NOTHING_OF, "refused runs"), 0)
    for _ in range(2):
        for tenant in tenants:
            run = await reconciler.run(Terms(True, tenant, timedelta(0), 100_000))
            for name in run.counts.keys() & done.keys():
                done[name] += run.counts[name]
            done["refused runs"] += run.status != pb.RECONCILE_STATUS_FINISHED
    return done
