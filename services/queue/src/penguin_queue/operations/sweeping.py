"""The sweep beside the server: at least once a second, and when the next job falls due, it makes ready what time alone
makes ready; and beside it what waited for jobs that have left is seen to. No call does either, so no call waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from penguin_chassis.defects import places
from penguin_chassis.pool import Database
from penguin_queue.operations.announcing import Announcer
from penguin_queue.operations.work import Work
from penguin_queue.store.due import EVER

log = logging.getLogger(__name__)

LONGEST_S = 1.0
SHORTEST_S = 0.01
# How far behind the last sweep the next one begins: clocks differ, and a transaction that began before may have ended since.
MARGIN = timedelta(seconds=15)
# How often all is swept at most (seconds), and the share of the time that this may take (one part in so many).
WHOLE_S = 60.0
SHARE = 100.0
# While the database is away the monitor watches it; the sweep only looks whether it is back (seconds).
AWAY_S = 1.0


class Reach:
    """From when on a sweep looks. What an earlier one has been through is not looked at again and again, for there stands what has
    gone from it and vacuum has not removed; now and then all is."""

    def __init__(self) -> None:
        self._through = EVER
        self._whole_at = -WHOLE_S
        self._whole_for = WHOLE_S

    def after(self, monotonic: float) -> datetime:
        """From when on the next sweep looks."""
        return EVER if monotonic - self._whole_at >= self._whole_for else self._through - MARGIN

    def swept(self, at: datetime, after: datetime, monotonic: float, cost_s: float) -> None:
        """A sweep has been through all from `after` to `at`."""
        self._through = max(self._through, at)
        if after == EVER:
            self._whole_at, self._whole_for = monotonic, max(WHOLE_S, SHARE * cost_s)


async def _keep_sweeping(db: Database, work: Work, announcer: Announcer) -> None:
    clock = asyncio.get_running_loop().time
    reach = Reach()
    while True:
        if not await db.wait_up(AWAY_S):
            continue
        at, started = db.now(), clock()
        after = reach.after(started)
        try:
            swept = await work.sweep(at, after)
        except Exception as error:  # noqa: BLE001 - the next round tries again
            log.warning("sweep failed: %s", type(error).__name__, extra={"places": places(error)})
            await asyncio.sleep(LONGEST_S * random.uniform(0.5, 1.0))
            continue
        if not swept.more:
            reach.swept(at, after, clock(), clock() - started)
            await announcer.until_turn(swept.next_at, db.now(), LONGEST_S, SHORTEST_S)


async def _keep_settling(db: Database, work: Work, announcer: Announcer) -> None:
    waiting: asyncio.Task[None] | None = None
    try:
        while True:
            if not await db.wait_up(AWAY_S):
                continue
            more = await _settle(work, db.now())
            if work.held and (waiting is None or waiting.done()):
                waiting = asyncio.create_task(_settle_held(db, work), name="settle-held")
            if not more:
                await announcer.until_left(LONGEST_S, SHORTEST_S)
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _settle(work: Work, at: datetime) -> bool:
    """See to jobs that have left; whether there is more to see to at once."""
    try:
        return await work.settle(at)
    except Exception as error:  # noqa: BLE001 - the next round tries again
        log.warning("wakes were not seen to: %s", type(error).__name__, extra={"places": places(error)})
        return False


async def _settle_held(db: Database, work: Work) -> None:
    """Wait for ordering keys that somebody has in hand, one by one: everybody else is seen to meanwhile."""
    try:
        while work.held:
            await work.settle_held(db.now())
    except Exception as error:  # noqa: BLE001 - the next round that finds such a key begins anew
        log.warning("held keys were not seen to: %s", type(error).__name__, extra={"places": places(error)})


@contextlib.asynccontextmanager
async def sweeping(db: Database, work: Work, announcer: Announcer) -> AsyncIterator[None]:
    """Sweep beside the block; and see to jobs that have left, apart, so that what time brings waits for nothing of theirs."""
    tasks = [
        asyncio.create_task(_keep_sweeping(db, work, announcer), name="sweep"),
        asyncio.create_task(_keep_settling(db, work, announcer), name="settle"),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
