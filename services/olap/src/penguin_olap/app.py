"""The composition root: opens the database, builds stores and servicers, serves, and closes in reverse order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from penguin_chassis import migrate, tier
from penguin_chassis.housekeeping import PRUNE, housekeeping
from penguin_chassis.pool import database
from penguin_chassis.server import Running, State, serve
from penguin_olap.config import TIER, OlapConfig
from penguin_olap.servicers import registrations
from penguin_olap.store import DUTIES


@contextlib.asynccontextmanager
async def serving(config: OlapConfig) -> AsyncIterator[Running]:
    """Serve the tier until the block is left. Starts, and says it is ready, while its database is down."""
    facts = tier.TierFacts(TIER, version("penguin-olap"), len(migrate.load("penguin_olap.migrations")))
    state = State()
    async with (
        database(config.pool()) as db,
        housekeeping(db, (PRUNE, state.closed.duty(), state.incarnation.duty(), *DUTIES)),
    ):
        state.of(db)
        own = tier.registration(tier.TierServicer(facts, db, state))
        async with serve(
            config.server(), [own, *registrations(db, config.price_usd_micros_per_email)], state
        ) as running:
            yield running
