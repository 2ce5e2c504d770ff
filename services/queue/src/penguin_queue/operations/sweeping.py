"""The sweep beside the server: at least once a second, and when the next job falls due, it makes ready what time alone
makes ready. No call does that, so no call waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

from penguin_chassis.defects import places
from penguin_chassis.mutations import now
from penguin_chassis.pool import Database
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.work import Work

log = logging.getLogger(__name__)

LONGEST_S = 1.0
SHORTEST_S = 0.01
# While the database is away the monitor watches it; the sweep only looks whether it is back (seconds).
AWAY_S = 1.0


async def _keep_sweeping(db: Database, work: Work, announcer: Announcer) -> None:
    while True:
        if not await db.wait_up(AWAY_S):
            continue
        try:
            swept = await work.sweep()
        except Exception as error:  # noqa: BLE001 - the next round tries again
            log.warning("sweep failed: %s", type(error).__name__, extra={"places": places(error)})
            await asyncio.sleep(LONGEST_S * random.uniform(0.5, 1.0))
            continue
        if not swept.more:
            await announcer.until_turn(swept.next_at, now(), LONGEST_S, SHORTEST_S)


@contextlib.asynccontextmanager
async def sweeping(db: Database, work: Work, announcer: Announcer) -> AsyncIterator[None]:
    """Sweep beside the block."""
    task = asyncio.create_task(_keep_sweeping(db, work, announcer), name="sweep")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
