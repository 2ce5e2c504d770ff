"""The composition root: opens the database, builds stores and servicers, serves, and closes in reverse order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from penguin_chassis import keys, migrate, tier
from penguin_chassis.housekeeping import MEASURE, PRUNE, housekeeping
from penguin_chassis.keys import REFERENCE, KeySource
from penguin_chassis.pool import database
from penguin_chassis.server import Running, State, serve
from penguin_oltp.config import TIER, OltpConfig
from penguin_oltp.servicers import registrations
from penguin_oltp.store import DUTIES
from penguin_oltp.store.subjects import SubjectStore

# Where this tier holds storage keys: the sources of its view storage_keys.
KEY_SOURCES = tuple(KeySource(name, REFERENCE) for name in ("emails", "templates", "inbox_message_refs"))


@contextlib.asynccontextmanager
async def serving(config: OltpConfig) -> AsyncIterator[Running]:
    """Serve the tier until the block is left. Starts, and says it is ready, while its database is down."""
    facts = tier.TierFacts(TIER, version("penguin-oltp"), len(migrate.load("penguin_oltp.migrations")), KEY_SOURCES)
    state = State()
    async with (
        database(config.pool()) as db,
        housekeeping(db, (MEASURE, PRUNE, state.closed.duty(), state.incarnation.duty(), *DUTIES)),
    ):
        state.of(db)
        own = tier.registration(tier.TierServicer(facts, db, state, SubjectStore(db)))
        async with serve(
            config.server(), [own, keys.registration(db, KEY_SOURCES), *registrations(db)], state
        ) as running:
            yield running
