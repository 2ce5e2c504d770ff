"""The composition root: opens the database, builds stores and servicers, serves, and closes in reverse order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from penguin_chassis import migrate, tier
from penguin_chassis.housekeeping import MEASURE, PRUNE, housekeeping
from penguin_chassis.pool import database
from penguin_chassis.server import Running, State, serve
from penguin_oltp.config import TIER, OltpConfig
from penguin_oltp.servicers import registrations
from penguin_oltp.store import DUTIES
from penguin_oltp.store.subjects import SubjectStore


@contextlib.asynccontextmanager
async def serving(config: OltpConfig) -> AsyncIterator[Running]:
    """Serve the tier until the block is left. Starts, and says it is ready, while its database is down."""
    facts = tier.TierFacts(TIER, version("penguin-oltp"), len(migrate.load("penguin_oltp.migrations")))
    state = State()
    async with (
        database(config.pool()) as db,
        housekeeping(db, (MEASURE, PRUNE, state.closed.duty(), state.incarnation.duty(), *DUTIES)),
    ):
        state.incarnation.of(db)
        own = tier.registration(tier.TierServicer(facts, db, state, SubjectStore(db)))
        async with serve(config.server(), [own, *registrations(db)], state) as running:
            yield running
