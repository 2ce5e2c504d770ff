"""The composition root: opens the database, builds stores and servicers, serves, and closes in reverse order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

from penguin_chassis import keys, migrate, tier
from penguin_chassis.housekeeping import PRUNE, housekeeping
from penguin_chassis.keys import OWNER, QUARANTINE, KeySource
from penguin_chassis.pool import database
from penguin_chassis.server import Running, State, serve
from penguin_content.config import TIER, ContentConfig
from penguin_content.servicers import registrations
from penguin_content.store import DUTIES
from penguin_content.store.subjects import SubjectStore

# Where this tier holds storage keys: the sources of its view storage_keys.
KEY_SOURCES = (KeySource("contents", OWNER), KeySource("quarantine", QUARANTINE))


@contextlib.asynccontextmanager
async def serving(config: ContentConfig) -> AsyncIterator[Running]:
    """Serve the tier until the block is left. Starts, and says it is ready, while its database is down."""
    facts = tier.TierFacts(
        TIER, version("penguin-content"), len(migrate.load("penguin_content.migrations")), KEY_SOURCES
    )
    state = State()
    async with (
        database(config.pool()) as db,
        housekeeping(db, (PRUNE, state.closed.duty(), state.incarnation.duty(), *DUTIES)),
    ):
        state.of(db)
        own = tier.registration(tier.TierServicer(facts, db, state, SubjectStore(db)))
        async with serve(
            config.server(), [own, keys.registration(db, KEY_SOURCES), *registrations(db)], state
        ) as running:
            yield running
